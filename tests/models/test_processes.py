"""Trainings of several processes, and signals that stop them."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.training.config import load_config
from models.training.trainer import Trainer
from tests.models.one_of_two import save_statistics
from tests.models.test_train import SMALL, scalars

NETWORKS = ("lite", "keyframes-gan")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    """What one process and two processes write."""
    folder = tmp_path_factory.mktemp("processes")
    for network in NETWORKS:
        (folder / f"{network}.toml").write_text(
            "steps = 3\nbatch = 4\nside = 64\nwarmup = 1\nworkers = 0\nbfloat16 = false\n"
            f"mse_weight = 1.0\n[network]\nkind = '{network}'\n"
        )
        config = load_config(folder / f"{network}.toml")
        Trainer(config, data, folder / f"{network}-one").run()
    save_statistics(folder)
    in_two_processes("-m", "tests.models.one_of_two", str(data), str(folder))
    return folder


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


@pytest.mark.parametrize("network", NETWORKS)
def test_two_processes_learn_the_same_as_one(folder, network):
    one, two = (scalars(folder / f"{network}-{count}") for count in ("one", "two"))
    assert len(one["loss"]) == 2  # after the first and the last step
    assert one.keys() == two.keys()
    for name, values in one.items():
        assert two[name] == pytest.approx(values, abs=1e-3 if name == "gain_db" else 1e-5), name
    states = [
        torch.load(folder / f"{network}-{count}" / "checkpoint.pt", weights_only=True)["network"]
        for count in ("one", "two")
    ]
    for name, value in states[0].items():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(states[1][name], value, atol=1e-5, rtol=1e-4)


def test_the_first_process_copies_the_configuration(folder):
    copy = folder / "keyframes-gan-two" / "config.toml"
    assert copy.read_text() == (folder / "keyframes-gan.toml").read_text()


def test_two_processes_share_gradients_and_batch_statistics(folder):
    # In 64 bits: in 32 bits, rounding across the kink of a LeakyReLU makes a further difference.
    one, two = (torch.load(folder / f"{count}.pt") for count in (1, 2))
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


def test_sigterm_to_all_its_processes_ends_a_training_after_a_step(data, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("steps = 100000\nbatch = 2\nside = 64\nworkers = 1\ncheckpoint_minutes = 0\n")
    command = [sys.executable, "-m", "models.train", str(config), str(data), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not (tmp_path / "run" / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the same command continues from there" in printed
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] > 0
