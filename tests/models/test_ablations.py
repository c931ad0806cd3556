"""The variants of the paper's network, and the table of what they cost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import ablations
from models.ablations import FULL, gain_db, size, trained, variants
from models.data.samples import Crops
from models.networks import build
from models.networks.backbones import BACKBONES
from models.networks.keyframes_gan import KeyframesGANConfig
from models.training.config import load_config
from models.training.trainer import Trainer
from receiver.errors import InputError

LACKING = {
    FULL: {},
    "without-adain": {"adain": False},
    "without-asff": {"fusion": "none"},
    "without-landmarks": {"landmarks": False},
    "without-msf": {"multi_scale": False},
    "without-reference": {"fusion": "none", "reference": False},
    "without-sft": {"modulation": "none"},
}
"""What each variant lacks."""
VGG19 = {
    FULL: (96_347_907, 161.5),
    "without-adain": (96_347_907, 161.5),
    "without-asff": (71_478_595, 125.7),
    "without-landmarks": (93_316_163, 131.6),
    "without-msf": (76_550_339, 115.2),
    "without-reference": (70_872_387, 99.36),
    "without-sft": (89_304_003, 154.84),
}
"""Parameters, and thousands of millions of multiplications a crop."""


def conv(before: int, after: int, side: int) -> int:
    """Returns the parameters of a convolution with a bias."""
    return before * after * side * side + after


def asff(c: int, inputs: int = 3) -> int:
    """Reductions, two convolutions to the mask, two branches.

    A batch normalisation has 2 parameters a channel. Its convolution in a branch has no bias.
    """
    mask = inputs * conv(c, c // 2, 1) + conv(inputs * (c // 2), c, 3) + conv(c, c, 3) + 4 * c
    branch = 9 * c * c + 2 * c + conv(c, c, 1)
    return mask + 2 * branch


def merged(c: int, inputs: int) -> int:
    """A 1x1 convolution over the concatenated inputs, and a batch normalisation."""
    return conv(inputs * c, c, 1) + 2 * c


def sft(before: int, after: int) -> int:
    """Scale and shift of one level of the decoder, two convolutions each."""
    return 2 * (conv(before, after, 3) + conv(after, after, 3))


def levels(taps: tuple[int, ...]) -> list[tuple[int, int]]:
    """Channels before and after each level of the decoder, deepest first."""
    tail = 64 if taps == (128, 256, 512, 512) else 16
    return list(zip(taps[::-1], (*taps[-2::-1], tail), strict=True))


CHANGES: dict[str, Callable[[tuple[int, ...]], int]] = {
    FULL: lambda taps: 0,
    "without-adain": lambda taps: 0,
    "without-asff": lambda taps: sum(merged(c, 3) - asff(c) for c in taps),
    "without-landmarks": lambda taps: sum(asff(c, 2) - asff(c) for c in taps),
    "without-msf": lambda taps: -sum(asff(c) + sft(c, d) for c, d in levels(taps)[1:]),
    "without-reference": lambda taps: sum(merged(c, 2) - asff(c) for c in taps),
    "without-sft": lambda taps: sum(conv(c + d, d, 3) - sft(c, d) for c, d in levels(taps)),
}
"""Parameters that a variant has more than the whole network, by the widths of the taps."""
WHOLE = {"vgg19": 96_347_907, "mobilenet-v3-large": 8_445_315, "mobilenet-v3-small": 2_715_167}


@pytest.mark.parametrize("name", LACKING)
def test_a_variant_is_the_papers_training_without_one_part(name):
    whole, config = variants()[FULL], variants()[name]
    assert config == replace(whole, network=replace(whole.network, **LACKING[name]))


def test_there_is_a_config_for_every_variant():
    assert list(variants()) == list(LACKING)


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize("name", LACKING)
def test_a_variant_has_as_many_parameters_as_its_parts(name, backbone):
    with torch.device("meta"):
        network = build(replace(variants()[name].network, backbone=backbone))
    expected = WHOLE[backbone] + CHANGES[name](BACKBONES[backbone].widths)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("name", LACKING)
def test_the_variants_of_vgg_have_the_documented_sizes(name):
    parameters, gmac = size(variants()[name].network)
    assert parameters == VGG19[name][0]
    assert gmac == pytest.approx(VGG19[name][1], abs=0.06)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> Path:
    """A training of two steps of one variant, named as models.ablations expects it."""
    folder = tmp_path_factory.mktemp("runs")
    text = (
        "steps = 2\nbatch = 2\nside = 64\nwarmup = 0\nworkers = 0\nmse_weight = 1.0\n"
        "[mix]\nraw = 1.0\ndecoded = 0.0\nother = 0.0\n"
        "[network]\nkind = 'keyframes-gan'\nlandmarks = false\n"
    )
    (folder / "config.toml").write_text(text)
    run = folder / "without-landmarks"
    Trainer(load_config(folder / "config.toml"), data, run).run()
    (folder / "config.toml").rename(run / "config.toml")
    return folder


def test_the_quality_is_the_mean_gain_of_the_trained_network(runs, data, monkeypatch):
    monkeypatch.setattr(ablations, "SAMPLES", 8)
    config = variants()["without-landmarks"]
    network = trained(
        runs / "without-landmarks",
        replace(config.network, backbone="mobilenet-v3-small"),
    )
    gains = []
    with torch.no_grad():
        for sample in (Crops(data, 8, 256, config.mix, config.seed)[i] for i in range(8)):
            inputs = [sample[n][None] for n in ("degraded", "reference", "landmarks")]
            errors = [
                float((picture - sample["target"]).square().mean())
                for picture in (sample["degraded"], network(*inputs)[0].clamp(0, 1))
            ]
            gains.append(10 * torch.log10(torch.tensor(errors[0] / errors[1])))
    assert gain_db(network, data, config) == pytest.approx(float(sum(gains)) / 8, abs=1e-3)
    assert max(map(abs, gains)) > 1e-3


def test_a_run_of_another_network_is_refused(runs, tmp_path):
    assert trained(tmp_path, KeyframesGANConfig()) is None
    with pytest.raises(InputError, match="without-landmarks is a training of another network"):
        trained(runs / "without-landmarks", KeyframesGANConfig())


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a busy machine
def test_the_table_says_what_was_trained(runs, data, command, capsys, monkeypatch):
    monkeypatch.setattr(ablations, "SAMPLES", 2)
    chosen = ("without-landmarks", "without-reference", "--backbone", "mobilenet-v3-small")
    assert command(ablations.main, *chosen, "--runs", runs, "--data", data, "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["variant"], first["parameters"]) == ("without-landmarks", 2_652_027)
    assert (second["variant"], second["parameters"]) == ("without-reference", 2_183_531)
    assert first["cpu_ms"] > 0
    assert second["gmac"] < first["gmac"]
    assert first["gain_db"] is not None
    assert second["gain_db"] is None
    figures = [ablations.Figures(**one) for one in (first, second)]
    rows = [list(column.cells) for column in ablations.table(figures, "b").columns]
    assert rows[-1] == [f"{first['gain_db']:+.2f} dB", "not trained"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["without-all"], "there is no variant 'without-all': give some of full, without-adain"),
        (["--runs", "RUNS"], "needs both --runs and --data: give both or neither"),
    ],
)
def test_invalid_arguments_are_named(command, capsys, arguments, said):
    assert command(ablations.main, *arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
