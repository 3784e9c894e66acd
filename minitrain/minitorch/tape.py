"""The tape: what was computed, in order, and the reverse pass over it.

An operation that is applied to tensors appends one record. As a record can only use what exists
already, the list is topologically sorted by construction, and the reverse pass is a loop over it from
the end: no recursion, no search, and always the same order, so gradients add up to the same bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


class Tensor:
    """An array and, during the reverse pass, the gradient of the loss with respect to it (same shape)."""

    __slots__ = ("data", "grad")

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.grad: np.ndarray | None = None

    def add_gradient(self, grad: np.ndarray) -> None:
        """Add to the gradient. Not in place: an operation may give one array to two inputs."""
        self.grad = grad if self.grad is None else self.grad + grad


class Parameter(Tensor):
    """A leaf that is trained. Its numbers, and its gradient if it has one, are views into flat vectors (``bind``)."""

    __slots__ = ("shape", "size")

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.size = math.prod(shape)

    def bind(self, weights: np.ndarray, grads: np.ndarray | None) -> None:
        """Become a view into these flat slices, both ``size`` long."""
        self.data = weights.reshape(self.shape)
        self.grad = None if grads is None else grads.reshape(self.shape)

    def add_gradient(self, grad: np.ndarray) -> None:
        """Add to the gradient in place, where the flat vector has it."""
        assert self.grad is not None, "a parameter needs a vector for its gradient: see Module.bind"
        self.grad += grad


@dataclass(frozen=True)
class Op:
    """An operation and its gradient.

    ``forward(*arrays, **settings)`` returns the result and what the gradient will need;
    ``backward(dout, *saved)`` returns the gradients of the arrays, in their order.
    Neither changes its inputs. Settings (token ids, masks, rotations) have no gradient.
    """

    forward: Callable[..., tuple[np.ndarray, tuple[Any, ...]]]
    backward: Callable[..., tuple[np.ndarray, ...]]

    @property
    def name(self) -> str:
        return self.forward.__name__.removesuffix("_forward")

    def __call__(self, tape: "Tape", *inputs: Tensor, **settings: Any) -> Tensor:
        """Apply the operation to tensors and record it on ``tape``."""
        result, saved = self.forward(*(tensor.data for tensor in inputs), **settings)
        return tape.record(self, inputs, result, saved)


class Record(NamedTuple):
    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor
    saved: tuple[Any, ...]


@dataclass
class Tape:
    """The records of one forward pass.

    ``recording=False`` keeps no records, for evaluation. ``rounding``, if given, is applied to the
    result of every operation: it simulates activations in a narrower format.
    """

    recording: bool = True
    rounding: Callable[[np.ndarray], np.ndarray] | None = None
    records: list[Record] = field(default_factory=list)

    def record(self, op: Op, inputs: tuple[Tensor, ...], result: np.ndarray, saved: tuple[Any, ...]) -> Tensor:
        """Append what an operation has computed; the tensor of its result."""
        output = Tensor(result if self.rounding is None else self.rounding(result))
        if self.recording:
            self.records.append(Record(op, inputs, output, saved))
        return output

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` (of its sum, if it has several numbers) to all leaves that it was computed from.

        Intermediate gradients are dropped. The records are used up: what a record has saved is free for
        later gradients as soon as it was used.
        """
        loss.grad = np.ones_like(loss.data)
        while self.records:
            op, inputs, output, saved = self.records.pop()
            dout, output.grad = output.grad, None
            if dout is None:
                continue  # the loss does not depend on this result
            for tensor, grad in zip(inputs, op.backward(dout, *saved), strict=True):
                tensor.add_gradient(grad)
