"""Signatures of networks: which named tensors a network takes, returns and carries over."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from receiver.errors import ModelError

Arrays: TypeAlias = dict[str, NDArray[np.float32]]
"""A network's tensors by name. The first dimension of each is the batch, if the network has one."""
Shape: TypeAlias = tuple[int | None, ...]
"""A tensor's sizes; None stands for a free one."""

FLOAT = "tensor(float)"
"""ONNX Runtime's name for a float32 tensor."""


@dataclass(frozen=True)
class StateTensor:
    """A float32 tensor that a recurrent network returns and takes again in its next run.

    Attributes:
        input: name of the input that takes the state of the previous run.
        output: name of the output that holds the state after the run.
        shape: of both.
    """

    input: str
    output: str
    shape: Shape


@dataclass(frozen=True)
class Signature:
    """The named tensors of a network. The inputs are float32.

    Attributes:
        inputs: shapes by name.
        outputs: shapes by name.
        role: the word for such a network in the sentence that rejects another one.
    """

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    role: str = "network for this task"

    def with_state(self, state: Iterable[StateTensor]) -> "Signature":
        """Returns the signature of all tensors of a recurrent network, its state included."""
        tensors = tuple(state)
        return Signature(
            {**self.inputs, **{one.input: one.shape for one in tensors}},
            {**self.outputs, **{one.output: one.shape for one in tensors}},
            self.role,
        )

    @property
    def is_free_in_batch_only(self) -> bool:
        """Whether the first size of every input is free and no other size is."""
        return all(
            bool(shape) and shape[0] is None and None not in shape[1:]
            for shape in self.inputs.values()
        )

    def check(self, session: Any, path: Path) -> None:
        """Compares the signature with that of an InferenceSession.

        An input has to be float32 and free where the signature is free; only its batch may be of a
        fixed size. An output may be free everywhere: many exporters do not infer its sizes.

        Raises ModelError, with `path` and both signatures, if they differ.
        """
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if _match(inputs, self.inputs, _input_fits) and _match(outputs, self.outputs, _output_fits):
            return
        raise ModelError(
            f"{path} is not a {self.role}: it takes {_found(inputs)} and returns "
            f"{_found(outputs)}, instead of {_expected(self.inputs)} and "
            f"{_expected(self.outputs)}; export one with python -m models.export"
        )


def _match(values: Sequence[Any], expected: Mapping[str, Shape], fits: Any) -> bool:
    by_name = {value.name: value for value in values}
    return set(by_name) == set(expected) and all(
        fits(by_name[name], shape) for name, shape in expected.items()
    )


def _input_fits(value: Any, expected: Shape) -> bool:
    return (
        value.type == FLOAT
        and len(value.shape) == len(expected)
        and all(
            (axis == 0 or not isinstance(size, int)) if wanted is None else size == wanted
            for axis, (size, wanted) in enumerate(zip(value.shape, expected, strict=True))
        )
    )


def _output_fits(value: Any, expected: Shape) -> bool:
    if not value.shape:  # ONNX Runtime says the same of a scalar and of an unknown shape
        return True
    return len(value.shape) == len(expected) and all(
        wanted is None or not isinstance(size, int) or size == wanted
        for size, wanted in zip(value.shape, expected, strict=True)
    )


def _found(values: Sequence[Any]) -> str:
    return ", ".join(f"{value.name} {value.shape}" for value in values) or "nothing"


def _expected(shapes: Mapping[str, Shape]) -> str:
    """Returns "degraded and reference Nx3x256x256, landmarks Nx1x256x256", say."""
    names: dict[Shape, list[str]] = {}
    for name, shape in shapes.items():
        names.setdefault(shape, []).append(name)
    return ", ".join(f"{' and '.join(group)} {_sizes(shape)}" for shape, group in names.items())


def _sizes(shape: Shape) -> str:
    """Returns the sizes with an N for a free batch and letters from H on for other free sizes."""
    letters = iter("HWKLMPQR")
    return "x".join(
        ("N" if axis == 0 else next(letters, "?")) if size is None else str(size)
        for axis, size in enumerate(shape)
    )
