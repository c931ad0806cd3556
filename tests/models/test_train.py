"""Training: configurations, the adversarial stage, several processes, broken data."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.data.augmentation import paper as paper_augmented
from models.data.samples import Crops, ReferenceMix
from models.data.shards import Shard, load_shards
from models.export import HALF_TOLERANCE, TOLERANCE, load_trained, onnx_difference
from models.features import QualityFeatures, load_features, train_features
from models.networks import build
from models.networks.backbones import VGG19
from models.networks.keyframes_gan import KeyframesGANConfig
from models.training.config import TrainConfig, load_config
from models.training.trainer import Trainer
from receiver.enhance.faces.generator import CHANNELS, Generator

CONFIGS = sorted((Path(__file__).parents[2] / "models" / "configs").glob("*.toml"))
SMALL = TrainConfig(steps=4, batch=4, side=64, warmup=1, workers=0)
PAPER = replace(
    SMALL,
    network=KeyframesGANConfig(),
    mse_weight=300.0,
    adversarial_weight=2.0,
    matching_weight=10.0,
    halve_at=(3,),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three made-up shards of two clips: soft blots, and the same blots with noise."""
    folder = tmp_path_factory.mktemp("data")
    for number, clip in enumerate(["a.mp4", "a.mp4", "b.mp4"]):
        write_shard(folder / f"{clip}-{number}-0", clip, np.random.default_rng(number))
    return folder


def write_shard(folder: Path, clip: str, rng: np.random.Generator, count: int = 8) -> None:
    folder.mkdir(parents=True)
    blots = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    target = blots.repeat(16, axis=1).repeat(16, axis=2)
    noise = rng.integers(-9, 10, target.shape)
    arrays = {
        "target": target,
        "raw": target,
        "degraded": np.clip(target.astype(int) + noise, 0, 255).astype(np.uint8),
        "landmarks": rng.uniform(60, 200, (count, 68, 2)).astype(np.float32),
        "raw_landmarks": rng.uniform(60, 200, (count, 68, 2)).astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    about = {"clip": clip, "qp": rng.uniform(22, 48, count).tolist()}
    (folder / "shard.json").write_text(json.dumps(about))


def flat(state: object, prefix: str = "") -> dict[str, object]:
    """Every leaf of nested dicts and lists."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, x in items for k, v in flat(x, f"{prefix}.{name}").items()}
    return {prefix: state}


def scalars(run: Path) -> dict[str, list[float]]:
    """What a run logged for TensorBoard, by name."""
    events = EventAccumulator(str(run))
    events.Reload()
    return {name: [s.value for s in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_can_be_read_and_built(path):
    config = load_config(path)
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build(config.network).parameters()) > 5e5


def test_the_paper_s_config_is_the_paper_s():
    config = load_config(CONFIGS[0].parent / "vgg19.toml")
    assert (config.mse_weight, config.adversarial_weight, config.scales) == (300.0, 2.0, 4)
    assert (config.learning_rate, config.betas, config.batch) == (1e-4, (0.9, 0.99), 4)
    assert config.halve_at == (50_000, 100_000, 200_000, 300_000)
    assert config.mix == ReferenceMix(1.0, 0.0, 0.0)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="need a file as `features`"):
        TrainConfig(perceptual_weight=10.0)
    with pytest.raises(ValueError, match="quantized works with the network lite only"):
        TrainConfig(quantized=True, network=KeyframesGANConfig())
    with pytest.raises(ValueError, match="augmentation must be one of mirror, paper, not flip"):
        TrainConfig(augmentation="flip")
    with pytest.raises(ValueError, match="needs pairs, but the batch of 3 is odd"):
        TrainConfig(temporal_weight=0.1, batch=3)


def test_pairs_are_successive_pictures_cut_and_guided_alike(data):
    crops = Crops(data, 10, 64, ReferenceMix(1.0, 0.0, 0.0), 0, pairs=True)
    shards = [shard for those in crops.by_clip.values() for shard in those]
    originals = {
        (shard.clip, number, i): shard.picture("target", i)
        for number, shard in enumerate(shards)
        for i in range(len(shard))
    }
    for n in range(5):
        first, second = crops[2 * n], crops[2 * n + 1]
        assert first["guided"] == second["guided"]
        places = [place(sample["target"], originals) for sample in (first, second)]
        assert places[0][:2] == places[1][:2]
        assert places[1][2] == min(places[0][2] + 1, 7)


def place(cut: torch.Tensor, originals: dict) -> tuple[str, int, int]:
    """Whose cut (3xSxS, mirrored or not, in another exposure) it is: the best correlated."""

    def likeness(picture: np.ndarray) -> float:
        found = cut.numpy().transpose(1, 2, 0)
        pairs = [
            np.corrcoef(picture[top : top + 64, left : left + 64].ravel(), one.ravel())[0, 1]
            for one in (found, found[:, ::-1])
            for top in range(0, 193, 16)
            for left in range(0, 193, 16)
        ]
        return max(pairs)

    return max(originals, key=lambda name: likeness(originals[name]))


def test_a_training_goes_on_from_shipped_weights(data, tmp_path):
    shipped = Path(__file__).parents[2] / "receiver" / "weights" / "lite.onnx"
    trainer = Trainer(replace(SMALL, temporal_weight=0.1), data, tmp_path / "run", shipped)
    card = json.loads(shipped.with_suffix(".json").read_text())
    assert trainer.earlier_steps == card["steps"]
    inputs = tuple(torch.rand(1, channels, 256, 256) for channels in CHANNELS.values())
    assert onnx_difference(trainer.network.eval(), shipped, inputs) < TOLERANCE
    trainer.run()
    assert len(scalars(tmp_path / "run")["temporal"]) == 2


@pytest.mark.parametrize("config", [replace(SMALL, matching_weight=0.1), PAPER])
def test_a_stopped_training_goes_on_as_if_nothing_had_been(data, tmp_path, config):
    whole = Trainer(config, data, tmp_path / "whole")
    whole.run()
    first = Trainer(config, data, tmp_path / "parts")
    update = first._update

    def stop_at_the_second(batch):
        if first.step == 1:
            first.stop()
        return update(batch)

    first._update = stop_at_the_second
    first.run()
    assert first.step == 2
    second = Trainer(config, data, tmp_path / "parts")
    assert second.step == 2
    second.run()
    states = [
        flat(torch.load(tmp_path / run / "checkpoint.pt", weights_only=True))
        for run in ("whole", "parts")
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(states[1][name], value), name
        elif name != ".seconds":
            assert states[1][name] == value


def test_a_signal_to_all_its_processes_ends_a_training_after_a_step(data, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("steps = 100000\nbatch = 2\nside = 64\nworkers = 1\ncheckpoint_minutes = 0\n")
    command = [sys.executable, "-m", "models.train", str(config), str(data), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run" / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the same command continues from there" in said


def test_the_adversarial_stage_teaches_both(data, tmp_path):
    trainer = Trainer(PAPER, data, tmp_path)
    networks = (trainer.network.tail, trainer.adversary.discriminator)
    before = [[p.clone() for p in network.parameters() if p.dim() > 1] for network in networks]
    trainer.run()
    for weights, network in zip(before, networks, strict=True):
        after = [p for p in network.parameters() if p.dim() > 1]
        assert not any(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    logged = scalars(tmp_path)
    assert {"adversarial", "matching", "discriminator", "mse", "loss", "gain_db"} <= set(logged)
    assert [len(values) for values in logged.values()] == [2] * len(logged)
    assert all(np.isfinite(values).all() for values in logged.values())


def test_the_learning_rate_is_halved_where_the_config_says(data, tmp_path):
    trainer = Trainer(replace(PAPER, warmup=0, learning_rate=1e-4), data, tmp_path)
    rates = []
    for trainer.step in range(5):
        rates.append(trainer._learning_rate())
    assert rates == [1e-4, 1e-4, 1e-4, 5e-5, 5e-5]


def in_two_processes(*arguments: str) -> None:
    """Runs Python twice, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | meeting | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]
    assert [process.wait() for process in running] == [0, 0]


@pytest.mark.parametrize("network", ["lite", "keyframes-gan"])
def test_two_processes_learn_what_one_learns(data, tmp_path, network):
    config = tmp_path / "config.toml"
    config.write_text(
        "steps = 3\nbatch = 4\nside = 64\nwarmup = 1\nworkers = 0\nbfloat16 = false\n"
        f"mse_weight = 1.0\n[network]\nkind = '{network}'\n"
    )
    Trainer(load_config(config), data, tmp_path / "one").run()
    in_two_processes("-m", "models.train", str(config), str(data), str(tmp_path / "two"))
    one, two = scalars(tmp_path / "one"), scalars(tmp_path / "two")
    assert len(one["loss"]) == 2  # after the first and the last step
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, abs=1e-3 if name == "gain_db" else 1e-5), name
    states = [
        torch.load(tmp_path / run / "checkpoint.pt", weights_only=True)["network"]
        for run in ("one", "two")
    ]
    for name, value in states[0].items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


def test_two_processes_share_gradients_and_batch_statistics(tmp_path):
    # In 64 bits: in 32, a rounding that crosses a LeakyReLU's kink makes a difference of its own.
    script = f"""
import torch
from models.networks.discriminators import PatchDiscriminator
from models.training.parallel import Processes

class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = PatchDiscriminator().double()
    def forward(self, x):
        return (self.network(x)[-1] ** 2).mean()

torch.manual_seed(0)
processes = Processes.join()
loss, x = Loss(), torch.rand(4, 3, 32, 32).double()
share = 4 // processes.count
shared = processes.wrap(loss)
shared(x[share * processes.rank :][:share]).backward()
if processes.rank == 0:
    state = loss.state_dict() | {{name: p.grad for name, p in loss.named_parameters()}}
    torch.save(state, f"{tmp_path}/{{processes.count}}.pt")
processes.leave()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    in_two_processes("-c", script)
    one, two = (torch.load(tmp_path / f"{count}.pt") for count in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-10, rtol=1e-10)


def test_processes_that_cannot_share_a_batch_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4 equally"):
        Trainer(SMALL, data, tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes cannot share the pairs of a batch of 6"):
        Trainer(replace(SMALL, batch=6, temporal_weight=0.1), data, tmp_path)


def test_broken_shards_are_named_and_passed_over(data, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("cut-off", "odd", "without", "good"):
        write_shard(tmp_path / name, "c.mp4", rng)
    with (tmp_path / "cut-off" / "target.npy").open("r+b") as file:
        file.truncate(1000)
    np.save(tmp_path / "odd" / "landmarks.npy", np.zeros((7, 68, 2), np.float32))
    (tmp_path / "without" / "raw.npy").unlink()
    assert [shard.folder.name for shard in load_shards(tmp_path)] == ["good"]
    said = capsys.readouterr().out
    for name in ("cut-off", "odd: ValueError: landmarks.npy is float32 (7, 68, 2)", "without"):
        assert f"skipped {tmp_path / name}" in said
    (tmp_path / "good" / "shard.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="no shards"):
        load_shards(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="wants /proc")
def test_reading_holds_no_files_open(data):
    before = len(list(Path("/proc/self/fd").iterdir()))
    crops = Crops(data, 20, 64, ReferenceMix(), 0)
    assert all(crops[i]["target"].shape == (3, 64, 64) for i in range(20))
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    folder = next(data.glob("a*"))
    for name in ("degraded", "target", "raw"):
        pictures = np.load(folder / f"{name}.npy")
        assert all(np.array_equal(Shard(folder).picture(name, i), pictures[i]) for i in (0, 7))


def test_the_paper_s_augmentation_is_the_same_for_all_pictures(data):
    rows, columns = np.mgrid[0:256, 0:256].astype(np.float32)
    # A place of the picture in each value: what moved, turned or vanished can be read off.
    place = (1.0 + rows * 256 + columns)[..., None]
    kinds = {"untouched": 0, "hole": 0, "turned": 0, "shifted": 0}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        one, two, _, points = paper_augmented(rng, [place, place, place, place], 256)
        assert np.array_equal(one, two)
        whole = np.rint(one * 255.0)
        assert np.array_equal(whole, points)
        hole = whole == 0
        if hole.any():
            height, width = hole.any(axis=1).sum(), hole.any(axis=0).sum()
            assert hole.sum() == height * width
            assert 16 <= min(height, width) <= max(height, width) <= 64
        moved = (whole != place) & ~hole
        step = whole[128, 129] - whole[128, 128]
        kinds["hole"] += hole.any()
        kinds["turned"] += step != 1 and not hole[128, 128:130].any()
        kinds["shifted"] += moved.any() and step == 1
        kinds["untouched"] += not moved.any() and not hole.any()
    assert 35 < kinds["hole"] < 85
    assert 35 < kinds["turned"] < 85
    assert 25 < kinds["shifted"] < 75
    assert 110 < kinds["untouched"] < 195


def test_features_learn_to_tell_qualities_apart_and_train_a_generator(data, tmp_path):
    network, told_apart = train_features(data, steps=60)
    assert told_apart > 80  # the made-up originals have no noise at all
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


def test_features_are_told_by_their_file(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(QualityFeatures().state_dict(), path)
    assert isinstance(load_features(path), QualityFeatures)
    torch.save(VGG19().state_dict(), path)
    assert isinstance(load_features(path), VGG19)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds neither torchvision's vgg19 nor features of"):
        load_features(path)


def test_a_missing_weight_file_is_told_in_one_line(data, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[network]\nkind = 'keyframes-gan'\nweights = 'gone.pth'\n")
    command = [sys.executable, "-m", "models.train", str(config), str(data), str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "gone.pth" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_the_paper_s_network_is_exported_as_every_other(data, tmp_path):
    run = tmp_path / "run"
    Trainer(replace(PAPER, steps=2), data, run).run()
    (run / "config.toml").write_text("[network]\nkind = 'keyframes-gan'\n")
    command = [sys.executable, "-m", "models.export", str(run), "--half", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    network, _, _ = load_trained(run)
    inputs = tuple(torch.rand(1, channels, 256, 256) for channels in CHANNELS.values())
    with torch.no_grad():
        assert (network(*inputs) - inputs[0]).abs().max() > 1e-4  # it has learnt something
    for kind, tolerance in (("", TOLERANCE), ("-half", HALF_TOLERANCE)):
        path = tmp_path / f"mobilenet-v3-small{kind}.onnx"
        assert onnx_difference(network, path, inputs) <= tolerance
        Generator(str(path), "cpu")
        onnxruntime.InferenceSession(str(path))
    card = json.loads((tmp_path / "mobilenet-v3-small.json").read_text())
    assert card["network"] == "models/networks/keyframes_gan.py"
    assert card["parameters"] == 2_715_167
    assert card["settings"]["fusion"] == "asff"
    assert set(card["sha256"]) == {f"mobilenet-v3-small{kind}.onnx" for kind in ("", "-half")}
