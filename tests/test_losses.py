"""What trainings minimise: exact where it can be, and ordered as the eye orders."""

import pytest
import torch

from models.losses import detail_loss, log_error


def picture(seed: int) -> torch.Tensor:
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.avg_pool2d(noise, 3, 1, 1)


def blurred(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)


def test_equal_pictures_lack_no_detail() -> None:
    assert detail_loss(picture(0), picture(0)).item() == pytest.approx(0.0, abs=1e-3)


def test_a_blurred_picture_lacks_detail() -> None:
    target = picture(0)
    lost = [detail_loss(one, target).item() for one in (target, blurred(target))]
    assert lost[1] > 0.1 > lost[0]


def test_more_contrast_than_there_was_is_no_gain() -> None:
    target = picture(0)
    more = target.mean() + 1.5 * (target - target.mean())
    assert detail_loss(more, target).item() >= 0.0


def test_noise_in_place_of_detail_is_no_detail() -> None:
    target = picture(0)
    flat = blurred(target)
    other = flat + picture(1) - blurred(picture(1))
    assert detail_loss(other, target) > 0.5 * detail_loss(flat, target)


def test_flat_pictures_have_finite_gradients() -> None:
    restored = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    detail_loss(restored, torch.full((1, 3, 64, 64), 0.5)).backward()
    assert restored.grad is not None
    assert restored.grad.isfinite().all()


def test_log_error_falls_by_a_constant_per_decibel() -> None:
    zero = torch.zeros(1, 3, 8, 8)
    near, far = (log_error(zero + offset).item() for offset in (0.1, 1.0))
    assert far - near == pytest.approx(0.0125 * 4.5951, abs=1e-4)  # ln(1.0001 / 0.0101)
