"""Metrics of a picture against its original, both HxWx3 uint8 RGB."""

import cv2

from keyframes import Picture


def psnr(original: Picture, picture: Picture) -> float:
    """Returns the PSNR over all three channels in dB."""
    return float(cv2.PSNR(original, picture))


def ssim(original: Picture, picture: Picture) -> float:
    """Returns the structural similarity of the luma, at most 1 (Wang et al., TIP 2004)."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(luma(original), luma(picture)))


def luma(picture: Picture) -> Picture:
    """Returns the HxW uint8 luma, 0 to 255 (BT.601)."""
    grey: Picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey
