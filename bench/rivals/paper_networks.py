"""The published method's generators, untrained: their time does not depend on their weights."""

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bench.rivals.contract import threads_in_words
from keyframes import Picture
from receiver.enhance.faces.generator import Generator
from receiver.inference.devices import ExecutionDevice

FORMS = {
    "paper": "vgg19",
    "paper-mobilenet-small": "mobilenet-v3-small",
    "paper-mobilenet-large": "mobilenet-v3-large",
}
"""Backbone of each form of the paper's generator, by the name that `--against` takes."""


class Network(Protocol):
    """Restores a crop.

    Attributes:
        device: on which it runs.
        runtime: the library that runs it, and its threads on a CPU, in words.
    """

    device: str
    runtime: str

    def restore(
        self, degraded: Picture, reference: Picture, landmarks: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Returns 256x256x3, about [0, 1], for 256x256x3, 256x256x3 and 256x256 uint8."""


class EagerNetwork:
    """The generator in eager PyTorch, with PyTorch's own number of threads."""

    def __init__(self, backbone: str, device: str) -> None:
        """`device` is an execution device; without CUDA in PyTorch the CPU is used."""
        import torch

        from models.networks.keyframes_gan import KeyframesGAN, KeyframesGANConfig
        from models.networks.spectral import bake_spectral_norm

        self.device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
        self.runtime = f"eager PyTorch, {threads_in_words(torch.get_num_threads())}"
        network = KeyframesGAN(KeyframesGANConfig(backbone=backbone))
        bake_spectral_norm(network)  # as after training: no normalisation at each use
        self._network = network.eval().to(self.device)
        self._torch = torch

    def restore(
        self, degraded: Picture, reference: Picture, landmarks: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """See `Network.restore`."""
        torch = self._torch
        with torch.inference_mode():
            pictures = [
                torch.from_numpy(picture).to(self.device).permute(2, 0, 1)[None].float() / 255.0
                for picture in (degraded, reference, landmarks[..., None])
            ]
            restored = self._network(*pictures)
            picture: NDArray[np.float32] = restored[0].permute(1, 2, 0).cpu().numpy()
        return picture


class OnnxNetwork:
    """The generator in ONNX Runtime, opened as this project opens its own networks."""

    def __init__(self, backbone: str, device: ExecutionDevice, threads: int) -> None:
        """Exports the generator, which takes some seconds, and opens it.

        Args:
            threads: of a run on the CPU.
        """
        from models.export import export
        from models.networks.keyframes_gan import KeyframesGAN, KeyframesGANConfig
        from models.networks.spectral import bake_spectral_norm

        network = KeyframesGAN(KeyframesGANConfig(backbone=backbone))
        bake_spectral_norm(network)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{backbone}.onnx"
            export(network.eval(), file)
            self._generator = Generator(str(file), device, threads)
        self._generator.warm_up()
        self.device: str = self._generator.device
        self.runtime = f"ONNX Runtime, {threads_in_words(threads)}"

    def restore(
        self, degraded: Picture, reference: Picture, landmarks: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """See `Network.restore`."""
        inputs = (
            np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / np.float32(255.0)
            for picture in (degraded, reference, landmarks[..., None])
        )
        restored: NDArray[np.float32] = self._generator.restore(*inputs)[0].transpose(1, 2, 0)
        return restored


def network_of(form: str, device: ExecutionDevice, threads: int) -> Network:
    """Returns one of `FORMS`: VGG-19 as it was published, the smaller ones in ONNX Runtime."""
    if form == "paper":
        return EagerNetwork(FORMS[form], device)
    return OnnxNetwork(FORMS[form], device, threads)
