"""Training: configurations, the trainer, its losses and features, and its command line."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import train
from models.data.samples import ReferenceMix
from models.export import FLOAT_TOLERANCE, load_trained, onnx_difference
from models.features import QualityFeatures, load_features, train_features
from models.networks import build
from models.networks.backbones import VGG19, MobileNetV3Small
from models.networks.keyframes_gan import KeyframesGANConfig
from models.networks.lite import Lite
from models.training.config import TrainConfig, load_config
from models.training.trainer import Trainer
from receiver.enhance.faces.generator import Generator
from tests.models.conftest import random_inputs

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "models" / "configs").rglob("*.toml"))
PAPERS = ROOT / "models" / "configs" / "vgg19.toml"
SMALL = TrainConfig(steps=4, batch=4, side=64, warmup=1, workers=0)
PAPER = replace(
    SMALL,
    steps=3,
    batch=2,
    network=KeyframesGANConfig(),
    mse_weight=300.0,
    adversarial_weight=2.0,
    matching_weight=10.0,
    halve_at=(3,),
)


def flat(state: object, prefix: str = "") -> dict[str, object]:
    """Returns every leaf of nested dicts and lists."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, x in items for k, v in flat(x, f"{prefix}.{name}").items()}
    return {prefix: state}


def scalars(run: Path) -> dict[str, list[float]]:
    """Returns the values that a run logged for TensorBoard, by name."""
    events = EventAccumulator(str(run))
    events.Reload()
    return {name: [s.value for s in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_can_be_read_and_built(path):
    config = load_config(path)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build(config.network).parameters()) > 5e5


def test_the_papers_config_has_the_papers_values():
    config = load_config(PAPERS)
    weights = {name: value for name, value in vars(config).items() if name.endswith("_weight")}
    assert {name: value for name, value in weights.items() if value} == {
        "mse_weight": 300.0,
        "perceptual_weight": 10.0,
        "style_weight": 1.0,
        "adversarial_weight": 2.0,
    }
    assert (config.scales, config.steps, config.batch, config.side) == (4, 55_000, 4, 256)
    # Without weight decay, AdamW is Adam.
    assert (config.learning_rate, config.betas, config.weight_decay) == (1e-4, (0.9, 0.99), 0.0)
    assert (config.warmup, config.clip_gradient) == (0, float("inf"))
    assert (config.augmentation, config.mix) == ("paper", ReferenceMix(1.0, 0.0, 0.0))
    assert config.features == config.network.weights == "vgg19-dcbb9e9d.pth"


def test_the_papers_learning_rate_is_halved_four_times(data, tmp_path):
    config = load_config(PAPERS)
    same = {name: getattr(config, name) for name in ("learning_rate", "warmup", "halve_at")}
    trainer = Trainer(replace(SMALL, **same), data, tmp_path)
    rates = {}
    for trainer.step in (0, 49_999, 50_000, 99_999, 100_000, 200_000, 299_999, 300_000):
        rates[trainer.step] = 1e-4 / trainer._learning_rate()
    assert list(rates.values()) == [1, 1, 2, 2, 4, 8, 8, 16]


def test_the_shipped_config_is_that_of_the_shipped_weights():
    config = load_config(PAPERS.with_name("lite.toml"))
    card = Generator("lite", "cpu").model.card
    assert card is not None
    for name, value in vars(config.network).items():
        assert card["settings"][name] == list(value)
    assert card["parameters"] == sum(p.numel() for p in Lite(config.network).parameters())


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="need a file as `features`"):
        TrainConfig(perceptual_weight=10.0)
    with pytest.raises(ValueError, match="quantized works with the network lite only"):
        TrainConfig(quantized=True, network=KeyframesGANConfig())
    with pytest.raises(ValueError, match="augmentation must be one of mirror, paper, not flip"):
        TrainConfig(augmentation="flip")
    with pytest.raises(ValueError, match="needs pairs, but the batch of 3 is odd"):
        TrainConfig(temporal_weight=0.1, batch=3)


def test_an_unknown_key_of_a_config_is_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("stepps = 3\n")
    with pytest.raises(TypeError, match="stepps"):
        load_config(path)


def test_a_training_starts_from_shipped_weights(data, tmp_path):
    shipped = ROOT / "receiver" / "weights" / "lite.onnx"
    trainer = Trainer(replace(SMALL, temporal_weight=0.1), data, tmp_path / "run", shipped)
    card = json.loads(shipped.with_suffix(".json").read_text())
    assert trainer.earlier_steps == card["steps"]
    assert onnx_difference(trainer.network.eval(), shipped, random_inputs()) < FLOAT_TOLERANCE
    trainer.run()
    assert len(scalars(tmp_path / "run")["temporal"]) == 2


@pytest.fixture(scope="module")
def paper_run(data, tmp_path_factory) -> tuple[Trainer, list[list[torch.Tensor]]]:
    """A finished training of PAPER, and the weights of both its networks before it."""
    trainer = Trainer(PAPER, data, tmp_path_factory.mktemp("paper"))
    before = [[p.clone() for p in weights(network)] for network in trained_networks(trainer)]
    trainer.run()
    return trainer, before


def trained_networks(trainer: Trainer) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Returns the end of the generator and the discriminators."""
    return trainer.network.tail, trainer.adversary.discriminator


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    """Returns the weights without biases."""
    return [p for p in network.parameters() if p.dim() > 1]


def test_a_stopped_training_continues_as_if_it_had_not_stopped(data, tmp_path, paper_run):
    whole, _ = paper_run
    first = Trainer(PAPER, data, tmp_path)
    update = first._update

    def stop_at_the_second(batch):
        if first.step == 1:
            first.stop()
        return update(batch)

    first._update = stop_at_the_second
    first.run()
    assert first.step == 2
    second = Trainer(PAPER, data, tmp_path)
    assert second.step == 2
    second.run()
    states = [
        flat(torch.load(trainer.checkpoint, weights_only=True)) for trainer in (whole, second)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(states[1][name], value), name
        elif name != ".seconds":
            assert states[1][name] == value


def test_training_lowers_the_error(shards, tmp_path):
    config = replace(SMALL, steps=40, warmup=5, learning_rate=1e-3)
    trainer = Trainer(config, shards, tmp_path)
    batch = torch.utils.data.default_collate([trainer.crops[i] for i in range(16)])
    with torch.no_grad():
        before = float(trainer.objective.losses(batch, *trainer._forward(batch))["pixels"])
    trainer.run()
    with torch.no_grad():
        after = float(trainer.objective.losses(batch, *trainer._forward(batch))["pixels"])
    assert after < before


def test_the_loss_is_the_weighted_sum_of_all_losses(data, tmp_path):
    weights = {"pixels": 0.9, "align": 0.2, "detail": 0.3, "mse": 5.0, "temporal": 0.7}
    settings = {f"{name.removesuffix('s')}_weight": value for name, value in weights.items()}
    trainer = Trainer(replace(SMALL, **settings), data, tmp_path)
    batch = torch.utils.data.default_collate([trainer.crops[i] for i in range(4)])
    losses = trainer.objective.losses(batch, *trainer._forward(batch))
    assert all(losses[name] != 0 for name in weights)
    expected = sum(value * float(losses[name]) for name, value in weights.items())
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    before = torch.nn.functional.mse_loss(batch["degraded"], batch["target"])
    assert torch.equal(losses["received"], before)
    batch["guided"] = torch.zeros(4)  # nothing to align
    assert trainer.objective.losses(batch, *trainer._forward(batch))["align"] == 0


def test_ctrl_c_keeps_the_checkpoint(shards, tmp_path, command, capsys):
    """SIGTERM, to a training with a loading process, is in test_processes.py."""
    config, run = tmp_path / "long.toml", tmp_path / "run"
    config.write_text("steps = 100000\nbatch = 2\nside = 64\nworkers = 0\ncheckpoint_minutes = 0\n")

    def interrupt_after_the_first_checkpoint() -> None:
        while not (run / "checkpoint.pt").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threading.Thread(target=interrupt_after_the_first_checkpoint, daemon=True).start()
    try:
        assert command(train.main, config, shards, run) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "the same command continues from there" in capsys.readouterr().out
    network, read, state = load_trained(run)
    assert state["step"] > 0
    assert read.batch == 2
    assert state["clips"] == ["portrait.mp4"]
    assert isinstance(network, Lite)


def test_the_adversarial_stage_trains_generator_and_discriminators(paper_run):
    trainer, before = paper_run
    for old, network in zip(before, trained_networks(trainer), strict=True):
        pairs = zip(old, weights(network), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs)
    logged = scalars(trainer.out)
    assert {"adversarial", "matching", "discriminator", "mse", "loss", "gain_db"} <= set(logged)
    assert [len(values) for values in logged.values()] == [2] * len(logged)
    assert all(np.isfinite(values).all() for values in logged.values())


def test_feature_matching_alone_trains_the_discriminators(data, tmp_path):
    config = replace(SMALL, steps=2, batch=2, scales=1, matching_weight=0.1)
    trainer = Trainer(config, data, tmp_path)
    before = [p.clone() for p in weights(trainer.adversary.discriminator)]
    trainer.run()
    pairs = zip(before, weights(trainer.adversary.discriminator), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_the_learning_rate_is_halved_at_the_configured_steps(data, tmp_path):
    trainer = Trainer(replace(SMALL, warmup=0, learning_rate=1e-4, halve_at=(3,)), data, tmp_path)
    rates = []
    for trainer.step in range(5):
        rates.append(trainer._learning_rate())
    assert rates == [1e-4, 1e-4, 1e-4, 5e-5, 5e-5]


def test_features_learn_to_classify_and_train_a_generator(data, tmp_path):
    network, accuracy = train_features(data, steps=30)
    assert accuracy > 80  # easy: the synthetic originals have no noise at all
    path = tmp_path / "features.pt"
    torch.save(network.state_dict(), path)
    features = load_features(path)
    taps = features(torch.rand(1, 3, 64, 64))
    assert [tap.shape for tap in taps] == [
        (1, width, 64 >> i, 64 >> i) for i, width in enumerate((32, 48, 64, 96))
    ]
    assert not any(parameter.requires_grad for parameter in features.parameters())
    config = replace(SMALL, features=str(path), perceptual_weight=10.0, style_weight=1.0, steps=2)
    Trainer(config, data, tmp_path / "run").run()
    logged = scalars(tmp_path / "run")
    assert logged["perceptual"][0] > 0
    assert logged["style"][0] > 0


def test_the_file_decides_which_features_are_loaded(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(QualityFeatures().state_dict(), path)
    assert isinstance(load_features(path), QualityFeatures)
    torch.save(VGG19().state_dict(), path)
    assert isinstance(load_features(path), VGG19)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds neither torchvision's vgg19 nor features of"):
        load_features(path)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("[network]\nkind = 'keyframes-gan'\nweights = 'gone.pth'", "weights"),
        ("features = 'gone.pth'\nstyle_weight = 1.0", "features"),
    ],
)
def test_a_missing_weight_file_is_reported_before_the_work(
    tmp_path, command, capsys, monkeypatch, settings, named
):
    monkeypatch.setattr("models.training.trainer.build", None)  # nothing is built
    config, run = tmp_path / "config.toml", tmp_path / "run"
    config.write_text(settings)
    assert command(train.main, config, tmp_path / "no-data", run) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            f"gone.pth is missing, which the configuration names as `{named}`: put torchvision's "
            "weights there, or name your own file"
        )
    )
    assert not run.exists()


def test_the_papers_config_needs_the_users_vgg(data, tmp_path, command, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(train.main, PAPERS, data, tmp_path / "run") == 2
    assert "vgg19-dcbb9e9d.pth is missing" in capsys.readouterr().err.splitlines()[-1]


def test_a_run_continues_without_the_file_that_it_started_with(data, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(MobileNetV3Small().state_dict(), file)
    config = replace(PAPER, steps=1, network=KeyframesGANConfig(weights=str(file)))
    Trainer(config, data, tmp_path / "run").run()
    file.unlink()
    assert Trainer(config, data, tmp_path / "run").step == 1


def weight_file_of_vgg(path: Path) -> Path:
    """Writes random weights of VGG-19 that keep the features' size from layer to layer."""
    torch.manual_seed(0)
    network = VGG19()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)  # on a busy machine
def test_the_papers_losses_lower_the_error_of_a_portrait(shards, tmp_path, monkeypatch):
    """A few larger steps of vgg19.toml: smaller cuts, the smallest backbone, random VGG weights."""
    monkeypatch.chdir(tmp_path)
    config = load_config(PAPERS)
    weight_file_of_vgg(tmp_path / config.features)
    network = replace(config.network, backbone="mobilenet-v3-small", weights="")
    config = replace(config, steps=8, batch=2, side=64, workers=0, network=network)
    config = replace(config, learning_rate=1e-3, bfloat16=False)  # 16 bits are slow on a CPU
    trainer = Trainer(config, shards, tmp_path / "run")
    batch = torch.utils.data.default_collate([trainer.crops[i] for i in range(2)])

    def losses() -> dict[str, float]:
        with torch.no_grad():
            found = trainer.objective.losses(batch, *trainer._forward(batch))
        return {name: float(value) for name, value in found.items()}

    before = losses()
    weighted = 300 * before["mse"] + 10 * before["perceptual"] + before["style"]
    assert before["loss"] == pytest.approx(weighted + 2 * before["adversarial"], rel=1e-4)
    trainer.run()
    after = losses()
    for loss in ("mse", "perceptual", "style"):
        assert 0 < after[loss] < before[loss], (loss, before, after)
