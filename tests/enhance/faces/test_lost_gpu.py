"""A GPU that fails during a call: auto continues on the CPU, a chosen GPU is tried again."""

import asyncio
from typing import Any

import pytest

import receiver.enhance.faces.generator
import receiver.inference.devices
import receiver.inference.io_binding
import receiver.inference.sessions
from receiver.calls.track import FAILURES
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import DeviceError
from tests.enhance.test_faults import Call, quick  # noqa: F401


class OnCuda:
    """A session on the CPU that claims to be on a GPU, until `gone` is set: then it fails."""

    def __init__(self, session: Any, provider: str, gone: asyncio.Event) -> None:
        self._session, self._provider, self._gone = session, provider, gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [self._provider]

    def run_with_iobinding(self, *of: Any) -> Any:
        if self._gone.is_set():
            raise RuntimeError("CUDA failure 999")
        return self._session.run_with_iobinding(*of)


@pytest.fixture
def cuda_gone(monkeypatch) -> asyncio.Event:
    """Simulates a GPU until this is set: then its sessions neither run nor open."""
    gone, new_session = asyncio.Event(), receiver.inference.sessions.new_session

    def opening(model: Any, device: str, providers: list[Any], threads: int | None) -> Any:
        if device != "cpu" and gone.is_set():
            raise DeviceError("CUDA failure 999")
        session = new_session(model, "cpu", ["CPUExecutionProvider"], threads)
        return session if device == "cpu" else OnCuda(session, PROVIDERS[device], gone)

    monkeypatch.setattr(receiver.inference.sessions, "new_session", opening)
    monkeypatch.setattr(receiver.inference.sessions, "providers_for", lambda *_: [])
    monkeypatch.setattr(receiver.inference.devices, "device_problem", lambda _: None)
    monkeypatch.setattr(receiver.enhance.faces.generator, "BATCH", 2)  # fewer batches to warm up
    monkeypatch.setattr(receiver.inference.io_binding, "MEMORY", {})  # CPU buffers
    return gone


PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


async def test_auto_continues_on_the_cpu(cuda_gone, decoded):
    call = Call(Enhancer(Generator("lite", "auto")))
    assert await call.show(decoded[0])
    assert call.stats.snapshot()["device"] == "cuda"
    cuda_gone.set()
    assert not any([await call.show(frame) for frame in decoded[:FAILURES]])
    await call.recovered()
    assert await call.show(decoded[0])
    assert call.stats.snapshot()["device"] == "cpu"
    assert call.track._enhancer.generator.model.path.name == "lite-int8.onnx"
    call.track.stop()


@pytest.mark.parametrize("device", PROVIDERS)
async def test_a_device_that_was_asked_for_is_kept_and_tried_again(cuda_gone, decoded, device):
    call = Call(Enhancer(Generator("lite", device)))
    assert await call.show(decoded[0])
    cuda_gone.set()
    for frame in decoded[:6]:
        assert not await call.show(frame)
        await call.recovered()
    assert call.stats.snapshot()["device"] == device
    assert call.stats.faults.counts["recovery"] == 4
    cuda_gone.clear()
    assert await call.show(decoded[0])
    call.track.stop()


def test_a_session_that_comes_up_elsewhere_is_rejected(cuda_gone, monkeypatch):
    monkeypatch.setattr(OnCuda, "get_providers", lambda _: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="CUDA was asked for and the session came up on the CPU"):
        Generator("lite", "cuda")
    assert Generator("lite", "auto").device == "cpu"
