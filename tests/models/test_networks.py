"""The paper's generator and discriminators: their sizes, parts and weight files."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.networks import build, read_network
from models.networks.backbones import BACKBONES
from models.networks.discriminators import Discriminator, PatchDiscriminator
from models.networks.keyframes_gan import (
    ASFF,
    Blur,
    KeyframesGAN,
    KeyframesGANConfig,
    adain,
    reflected,
)
from models.networks.spectral import bake_spectral_norm, spectral_norm
from tests.models.conftest import activated, random_inputs

TORCHVISION = {
    "vgg19": {
        "features.0.weight": (64, 3, 3, 3),
        "features.5.weight": (128, 64, 3, 3),
        "features.16.bias": (256,),
        "features.19.weight": (512, 256, 3, 3),
        "features.34.weight": (512, 512, 3, 3),
    },
    "mobilenet-v3-large": {
        "features.0.0.weight": (16, 3, 3, 3),
        "features.1.block.1.0.weight": (16, 16, 1, 1),
        "features.4.block.2.fc1.weight": (24, 72, 1, 1),
        "features.8.block.1.0.weight": (200, 1, 3, 3),
        "features.12.block.2.fc2.weight": (672, 168, 1, 1),
        "features.15.block.1.0.weight": (960, 1, 5, 5),
        "features.15.block.3.1.running_var": (160,),
    },
    "mobilenet-v3-small": {
        "features.0.1.bias": (16,),
        "features.1.block.1.fc1.weight": (8, 16, 1, 1),
        "features.3.block.2.0.weight": (24, 88, 1, 1),
        "features.5.block.2.fc1.weight": (64, 240, 1, 1),
        "features.8.block.2.fc1.weight": (40, 144, 1, 1),
        "features.11.block.0.1.running_mean": (576,),
        "features.11.block.3.0.weight": (96, 576, 1, 1),
    },
}
"""Names and shapes in torchvision's weight files."""


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("backbone", "whole", "trunk", "gmac"),
    [
        ("vgg19", 96_347_907, 20_024_384, 161.5),  # 96.348 M and 20.024 M
        ("mobilenet-v3-large", 8_445_315, 2_816_432, 2.97),  # 8.45 M
        ("mobilenet-v3-small", 2_715_167, 870_560, 1.84),  # 2.72 M
    ],
)
def test_sizes_equal_the_papers(backbone, whole, trunk, gmac):
    with torch.device("meta"):
        network = KeyframesGAN(KeyframesGANConfig(backbone=backbone)).eval()
        assert parameters(network) == whole
        assert parameters(network.backbone) == trunk
        assert all(parameter.requires_grad for parameter in network.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*random_inputs(side=256))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.05)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_taps_halve_from_one_to_the_next(backbone):
    with torch.device("meta"):
        network = BACKBONES[backbone]()
        taps = network(torch.rand(1, 3, 256, 256))
    assert tuple(tap.shape[1] for tap in taps) == network.widths
    sides = [256 // network.stride * 2**i for i in range(len(taps))]
    assert [tap.shape[-1] for tap in taps] == sides[::-1]


def test_an_untrained_network_changes_nothing():
    network = KeyframesGAN().eval()
    degraded, reference, landmarks = random_inputs(side=64)
    assert torch.equal(network(degraded, reference, landmarks), degraded)
    restored, aligned = network.forward_aligned(degraded, reference, landmarks)
    assert torch.equal(restored, degraded)
    assert aligned is reference


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"multi_scale": False},
        {"fusion": "none"},
        {"modulation": "none"},
        {"fusion": "none", "modulation": "none"},
        {"fusion": "spade"},
        {"modulation": "spade"},
        {"multi_scale": False, "fusion": "spade", "modulation": "spade"},
        {"adain": False},
        {"landmarks": False},
        {"landmarks": False, "fusion": "spade"},
        {"reference": False, "fusion": "none"},
        {"reference": False, "landmarks": False, "fusion": "none"},
    ],
)
def test_every_variant_uses_all_its_inputs_and_parameters(options):
    network = activated(build(KeyframesGANConfig(**options))).train()
    values = tuple(value.requires_grad_() for value in random_inputs(2, 64))
    restored = network(*values)
    assert restored.shape == (2, 3, 64, 64)
    restored.square().mean().backward()
    used = [True, options.get("reference", True), options.get("landmarks", True)]
    assert [value.grad is not None and bool(value.grad.any()) for value in values] == used
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_without_adain_the_references_statistics_matter():
    options, inputs = {"fusion": "none", "landmarks": False}, random_inputs(1, 64)
    darker = (inputs[0], 0.5 * inputs[1], inputs[2])
    for adain_is_on in (True, False):
        torch.manual_seed(0)
        network = build(KeyframesGANConfig(**options, adain=adain_is_on))
        seen: list[tuple[torch.Tensor, ...]] = []
        for level in network.fusions:
            level.register_forward_pre_hook(lambda _, taps, seen=seen: seen.append(taps))
        with torch.no_grad():
            activated(network)(*darker)
        means = [[tap.mean((2, 3)) for tap in taps] for taps in seen]
        assert len(means) == 5
        assert all(torch.allclose(*both, atol=1e-4) for both in means) == adain_is_on


def test_a_fusion_that_selects_needs_a_reference():
    with pytest.raises(ValueError, match="fusion asff needs the reference: set fusion to none"):
        KeyframesGANConfig(reference=False)


def test_unknown_words_are_named():
    with pytest.raises(ValueError, match="fusion must be one of asff, spade, none, not asf"):
        read_network({"kind": "keyframes-gan", "fusion": "asf"})
    with pytest.raises(ValueError, match="backbone must be one of vgg19, mobilenet-v3-large"):
        read_network({"kind": "keyframes-gan", "backbone": "resnet50"})
    with pytest.raises(ValueError, match="kind must be one of lite, keyframes-gan, not unet"):
        read_network({"kind": "unet"})
    with pytest.raises(TypeError, match="fusoin"):
        read_network({"kind": "keyframes-gan", "fusoin": "asff"})


def test_adain_copies_the_statistics():
    torch.manual_seed(0)
    x, like = 3.0 * torch.randn(2, 5, 16, 16) - 1.0, 0.5 * torch.rand(2, 5, 16, 16)
    y = adain(x, like)
    torch.testing.assert_close(y.mean((2, 3)), like.mean((2, 3)), atol=1e-6, rtol=0)
    # Unbiased deviations, 1e-5 added to either variance.
    ratio = (like.var((2, 3)) + 1e-5) / (x.var((2, 3)) + 1e-5)
    torch.testing.assert_close(y.var((2, 3)), x.var((2, 3)) * ratio, atol=0, rtol=1e-5)
    torch.testing.assert_close(adain(x, x), x)
    assert adain(x.bfloat16(), like.bfloat16()).dtype == torch.bfloat16


def test_asff_returns_the_degraded_branch_if_the_mask_is_zero():
    fusion = ASFF(8).eval()
    d, r, p = torch.rand(3, 2, 8, 12, 12)
    with torch.no_grad():
        fusion.mask[-2].weight.zero_()
        fusion.mask[-2].bias.zero_()
        torch.testing.assert_close(fusion(d, r, p), fusion.degraded(d))
        fusion.mask[-2].bias.fill_(1.0)
        torch.testing.assert_close(fusion(d, r, p), fusion.reference(r))


def test_reflection_repeats_if_a_map_is_too_small():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(reflected(x, 3), F.pad(x, (3, 3, 3, 3), mode="reflect"))
    row = reflected(x, 4)[0, 0, 4]
    assert row.tolist() == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]


def test_the_blur_keeps_flat_areas_and_spreads_a_point():
    blur = Blur(2)
    torch.testing.assert_close(blur(torch.ones(1, 2, 6, 6)), torch.ones(1, 2, 6, 6))
    point = torch.zeros(1, 2, 7, 7)
    point[:, :, 3, 3] = 16.0
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    torch.testing.assert_close(blur(point)[0, 1, 2:5, 2:5], expected)
    assert not blur.state_dict()


def test_spectral_norm_scales_the_largest_singular_value_to_one():
    torch.manual_seed(0)
    conv = spectral_norm(torch.nn.Conv2d(8, 16, 3)).train()
    x = torch.rand(1, 8, 9, 9)
    for _ in range(30):
        conv(x)
    conv.eval()
    largest = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), ord=2)
    assert largest.item() == pytest.approx(1.0, abs=1e-3)
    before = conv(x)
    bake_spectral_norm(conv)
    assert set(conv.state_dict()) == {"weight", "bias"}
    assert torch.equal(conv(x), before)


def test_spectral_norm_adds_no_parameter_and_stays_in_32_bits():
    conv = spectral_norm(torch.nn.Conv2d(3, 4, 3))
    assert parameters(conv) == 3 * 4 * 9 + 4
    with torch.autocast("cpu", torch.bfloat16):
        assert conv.weight.dtype == torch.float32


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_names_and_shapes_equal_torchvisions(backbone):
    with torch.device("meta"):
        state = BACKBONES[backbone]().state_dict()
    for name, shape in TORCHVISION[backbone].items():
        assert tuple(state[name].shape) == shape


def test_a_weight_file_may_hold_further_tensors(tmp_path):
    torch.manual_seed(1)
    network = BACKBONES["mobilenet-v3-small"]()
    file = {name: torch.rand_like(v.float()) for name, v in network.state_dict().items()}
    known = {name: v for name, v in file.items() if not name.endswith("num_batches_tracked")}
    rest = {"features.12.0.weight": torch.rand(576, 96, 1, 1), "classifier.3.bias": torch.rand(9)}
    torch.save(known | rest, tmp_path / "mobilenet_v3_small.pth")
    network.load(tmp_path / "mobilenet_v3_small.pth")
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in known.items())


def test_a_file_that_does_not_fit_is_refused_in_one_sentence(tmp_path):
    network = BACKBONES["mobilenet-v3-small"]()
    path = tmp_path / "weights.pth"
    state = network.state_dict()
    torch.save(state | {"features.0.0.weight": torch.rand(16, 3, 5, 5)}, path)
    wrong = (
        r"weights.pth holds no weights of mobilenet-v3-small: features.0.0.weight is \(16, 3, 5, 5"
    )
    with pytest.raises(ValueError, match=wrong):
        network.load(path)
    torch.save({name: v for name, v in state.items() if "4.block.2.fc1" not in name}, path)
    with pytest.raises(ValueError, match=r"features\.4\.block\.2\.fc1\.weight is missing$"):
        network.load(path)
    path.write_text("no weights")
    with pytest.raises(ValueError, match="is not a weight file of PyTorch"):
        network.load(path)
    with pytest.raises(FileNotFoundError):
        network.load(tmp_path / "none.pth")


def test_vgg_is_frozen_only_with_weights():
    with torch.device("meta"):
        frozen = KeyframesGAN(KeyframesGANConfig(backbone="vgg19", weights="vgg19.pth"))
        trained = KeyframesGAN(KeyframesGANConfig(weights="mobilenet_v3_small.pth"))
    assert not any(parameter.requires_grad for parameter in frozen.backbone.parameters())
    assert all(parameter.requires_grad for parameter in frozen.levels.parameters())
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_discriminators_score_four_scales_or_one():
    pictures = torch.rand(2, 3, 64, 64)
    scales = Discriminator()(pictures)
    assert [scale[-1].shape for scale in scales] == [(2, 1, n, n) for n in (8, 4, 2, 1)]
    assert [f.shape[1] for f in scales[0]] == [64, 128, 256, 512, 1]
    assert [f.shape[-1] for f in scales[0]] == [64, 32, 16, 8, 8]
    assert len(Discriminator(1)(pictures)) == 1
    with torch.device("meta"):
        at_256 = Discriminator()(torch.rand(1, 3, 256, 256))
    assert [scale[-1].shape[-1] for scale in at_256] == [32, 16, 8, 4]


def test_a_discriminator_has_the_documented_size():
    convolutions = sum(9 * a * b + b for a, b in ((3, 64), (64, 128), (128, 256), (256, 512)))
    normalisations = 2 * (64 + 128 + 256 + 512)
    assert parameters(PatchDiscriminator()) == convolutions + normalisations + 9 * 512 + 1
    assert not hasattr(PatchDiscriminator().score, "parametrizations")
