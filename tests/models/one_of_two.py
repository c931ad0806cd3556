"""Work of each of the two processes in test_processes.py.

`python -m tests.models.one_of_two DATA FOLDER` does all that these tests need,
because each import of torch takes seconds.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from models import train
from models.networks.discriminators import PatchDiscriminator
from models.training.config import load_config
from models.training.parallel import Processes
from models.training.trainer import Trainer


class Loss(nn.Module):
    """The mean square of a discriminator's scores, in 64 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PatchDiscriminator().double()

    def forward(self, x: Tensor) -> Tensor:
        return (self.network(x)[-1] ** 2).mean()


def save_statistics(folder: Path) -> None:
    """Writes the gradients and statistics of a batch to FOLDER/COUNT.pt, COUNT processes."""
    torch.manual_seed(0)
    processes = Processes.join()
    loss, x = Loss(), torch.rand(4, 3, 32, 32).double()
    share = 4 // processes.count
    shared = processes.wrap(loss)
    shared(x[share * processes.rank :][:share]).backward()
    if processes.rank == 0:
        state = loss.state_dict() | {name: p.grad for name, p in loss.named_parameters()}
        torch.save(state, folder / f"{processes.count}.pt")


def main(data: Path, folder: Path) -> None:
    """Trains both networks on their configurations in `folder`, the second by the command."""
    save_statistics(folder)
    Trainer(load_config(folder / "lite.toml"), data, folder / "lite-two").run()
    sys.argv[1:] = map(str, (folder / "keyframes-gan.toml", data, folder / "keyframes-gan-two"))
    train.main()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
