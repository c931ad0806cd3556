"""Losses have exact values in simple cases, and rank pictures as the eye does."""

import pytest
import torch

from models.training.losses import (
    adversarial_loss,
    detail_loss,
    gram,
    hinge_loss,
    log_error,
    matching_loss,
    perceptual_loss,
    style_loss,
    temporal_loss,
)


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


def test_more_contrast_than_the_target_is_no_gain() -> None:
    target = picture(0)
    more = target.mean() + 1.5 * (target - target.mean())
    assert detail_loss(more, target).item() >= 0.0


def test_noise_does_not_count_as_detail() -> None:
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


def test_hinge_losses_are_exact() -> None:
    real = [torch.tensor([2.0, 0.5]), torch.tensor([-1.0])]
    restored = [torch.tensor([-3.0, 0.0]), torch.tensor([1.0])]
    # Scales count 4 and 2: 4 * (0.25 + 0.5) + 2 * (2 + 2), and -(4 * -1.5 + 2 * 1).
    assert hinge_loss(real, restored).item() == 11.0
    assert adversarial_loss(restored).item() == 4.0
    assert hinge_loss([torch.ones(3)], [-torch.ones(3)]).item() == 0.0


def test_four_scales_weigh_4_2_1_1() -> None:
    assert adversarial_loss([torch.ones(1)] * 4).item() == -8.0


def test_gram_is_the_mean_product_of_channels() -> None:
    x = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    assert gram(x)[0].tolist() == [[5 / 4, 11 / 4], [11 / 4, 25 / 4]]


def test_style_ignores_positions() -> None:
    taps = [torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))]
    mirrored = [tap.flip(3) for tap in taps]
    assert style_loss(mirrored, taps).item() == pytest.approx(0.0, abs=1e-9)
    assert perceptual_loss(mirrored, taps).item() > 0.01


def test_perceptual_sums_over_the_taps() -> None:
    taps = [torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 2, 2)]
    assert perceptual_loss([tap + 0.5 for tap in taps], taps).item() == 0.5


def test_matching_ignores_scores_and_gives_the_real_no_gradient() -> None:
    real = [[torch.zeros(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 1, 4, 4)]]
    restored = [[torch.full((1, 2, 4, 4), 0.5, requires_grad=True), torch.ones(1, 1, 4, 4)]]
    loss = matching_loss(real, restored)
    assert loss.item() == 4 * 0.5
    loss.backward()
    assert restored[0][0].grad is not None
    assert real[0][0].grad is None


def test_a_constant_error_is_no_flicker() -> None:
    target = torch.cat([picture(0), picture(1)])  # two pairs
    assert temporal_loss(target + 0.1, target).item() == pytest.approx(0.0, abs=1e-6)
    flickering = target + torch.tensor([0.1, -0.1, 0.1, -0.1]).view(4, 1, 1, 1)
    assert temporal_loss(flickering, target).item() == pytest.approx(0.2)
