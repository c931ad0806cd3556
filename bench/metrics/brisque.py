"""BRISQUE, measured by piq if its weights are on this machine: nothing is downloaded."""

from pathlib import Path

from keyframes import Picture


def brisque_problem() -> str | None:
    """Returns why BRISQUE cannot be measured here; None if it can.

    piq would download its support vectors, so they have to be in torch's cache.
    """
    try:
        import piq  # noqa: F401
        import torch
    except (ImportError, RuntimeError) as error:  # a torchvision of another build: RuntimeError
        return f"piq cannot be imported: {error}"
    file = Path(torch.hub.get_dir()) / "checkpoints" / "brisque_svm_weights.pt"
    return None if file.is_file() else f"no weights: {file} is missing"


def brisque(picture: Picture) -> float:
    """Returns BRISQUE of an HxWx3 uint8 RGB picture: about 0 (a natural picture) to 100."""
    import piq

    from bench.metrics.lpips import batch_of

    return float(piq.brisque(batch_of(picture), data_range=255.0))
