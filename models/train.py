"""Trains a generator: `python -m models.train CONFIG DATA OUT`.

Writes OUT/checkpoint.pt every few minutes and when stopped (Ctrl-C, SIGTERM), resumes from it when
started again, and logs losses and pictures for TensorBoard (`tensorboard --logdir OUT`). It uses
CUDA if available. Several GPUs, or processes, share each batch when started with
`torchrun --nproc-per-node 2 -m models.train CONFIG DATA OUT`.
"""

import argparse
import shutil
import signal
import tomllib
from pathlib import Path

from models.threads import limit_threads
from models.training.config import load_config
from models.training.trainer import Trainer
from receiver.errors import InputError


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path, help="for example models/configs/lite.toml")
    parser.add_argument("data", type=Path, help="folder of shards from python -m models.prepare")
    parser.add_argument("out", type=Path, help="folder for the checkpoint and the logs")
    parser.add_argument(
        "--start-from",
        type=Path,
        metavar="RUN|ONNX",
        help="initial weights: another run's folder, or a floating-point ONNX file such as\n"
        "receiver/weights/lite.onnx",
    )
    args = parser.parse_args()
    limit_threads()
    try:
        trainer = Trainer(load_config(args.config), args.data, args.out, args.start_from)
        if trainer.processes.rank == 0:
            shutil.copyfile(args.config, args.out / "config.toml")
    except (InputError, OSError, TypeError, ValueError, tomllib.TOMLDecodeError) as error:
        parser.error(str(error))
    # Ctrl-C stops a training in the foreground, SIGTERM one in the background.
    signal.signal(signal.SIGINT, trainer.stop)
    signal.signal(signal.SIGTERM, trainer.stop)
    trainer.run()
    trainer.processes.leave()
    if trainer.processes.rank != 0:
        return
    if trainer.step < trainer.config.steps:
        print(f"stopped at step {trainer.step}; the same command continues from there")
    else:
        print(f"done after {trainer.seconds / 60:.0f} minutes: python -m models.export {args.out}")


if __name__ == "__main__":
    main()
