"""The tape: what was computed, in order, and the reverse pass over it.

An operation that is applied to tensors appends one record. As a record can only use what exists
already, the list is topologically sorted by construction, and the reverse pass is a loop over it from
the end: no recursion, no search, and always the same order, so gradients add up to the same bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Tensor:
    """An array and, after the reverse pass, the gradient of the loss with respect to it (same shape)."""

    __slots__ = ("data", "grad")

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.grad: np.ndarray | None = None


class Parameter(Tensor):
    """A leaf that is trained. Its numbers and its gradient are views into flat vectors; the reverse pass adds
    to the gradient.
    """

    __slots__ = ("shape", "size")

    def __init__(self, *shape: int) -> None:
        super().__init__(np.empty(0))  # no memory of its own
        self.shape = shape
        self.size = math.prod(shape)

    def bind(self, weights: np.ndarray, grads: np.ndarray) -> None:
        """Live in these flat slices, both ``size`` long."""
        self.data = weights.reshape(self.shape)
        self.grad = grads.reshape(self.shape)


@dataclass(frozen=True)
class Op:
    """An operation and its gradient.

    ``forward(*arrays, **settings)`` returns the result and what the gradient will need;
    ``backward(dout, *saved)`` returns the gradients of the arrays, in their order. Neither
    changes its inputs. Settings (token ids, masks, rotations) have no gradient.
    """

    name: str
    forward: Callable[..., tuple[np.ndarray, tuple[Any, ...]]]
    backward: Callable[..., tuple[np.ndarray | None, ...]]

    def __call__(self, tape: "Tape", *inputs: Tensor, **settings: Any) -> Tensor:
        """Apply the operation to tensors and record it on ``tape``."""
        return tape.apply(self, inputs, settings)


class Record(NamedTuple):
    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor
    saved: tuple[Any, ...]


class Tape:
    """The records of one forward pass.

    ``recording=False`` keeps no records, for evaluation. ``rounding``, if given, is applied to the
    result of every operation: it simulates activations in a narrower format.
    """

    def __init__(self, recording: bool = True, rounding: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.records: list[Record] = []
        self.recording = recording
        self.rounding = rounding

    def apply(self, op: Op, inputs: tuple[Tensor, ...], settings: dict[str, Any]) -> Tensor:
        """Compute ``op`` and append its record."""
        data, saved = op.forward(*(tensor.data for tensor in inputs), **settings)
        output = Tensor(data if self.rounding is None else self.rounding(data))
        if self.recording:
            self.records.append(Record(op, inputs, output, saved))
        return output

    def backward(self, output: Tensor, dout: np.ndarray) -> None:
        """Leave the gradients of ``(output * dout).sum()`` with the tensors that ``output`` was made of.

        What was computed on the way keeps none.

        Uses up the records: what a record has saved is free, for later gradients, as soon as it was used.
        """
        output.grad = dout
        while self.records:
            self._backward_of(self.records.pop())

    def _backward_of(self, record: Record) -> None:
        dout, record.output.grad = record.output.grad, None  # used once, then free
        if dout is None:
            return  # the output does not depend on this record
        grads = record.op.backward(dout, *record.saved)
        for tensor, grad in zip(record.inputs, grads, strict=True):
            if grad is None:
                continue
            if isinstance(tensor, Parameter):
                assert tensor.grad is not None, "a parameter needs Module.bind before it can be trained"
                tensor.grad += grad
            elif tensor.grad is None:
                tensor.grad = grad
            else:  # not in place: an operation may hand one array to two inputs
                tensor.grad = tensor.grad + grad
