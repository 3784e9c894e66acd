"""Modules: a tree that names parameters, all of them views into one flat vector.

Because the parameters of a model are stored in one vector, and their gradients in another, the optimizer,
clipping, averaging and checkpoints are a few lines over whole vectors.
"""

from collections.abc import Iterator

import numpy as np

from minitrain.minitorch import ops
from minitrain.minitorch.tape import Parameter, Tape, Tensor


class Module:
    """Has parameters and modules as attributes (or lists of modules), named and ordered as assigned.

    Attributes whose name begins with an underscore are not part of the tree.
    """

    def children(self) -> Iterator[tuple[str, "Parameter | Module"]]:
        """The parameters and modules directly below, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, list):
                yield from ((f"{name}.{index}", child) for index, child in enumerate(value))
            elif isinstance(value, Parameter | Module) and not name.startswith("_"):
                yield name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters of the tree with their dotted names, in the order of the flat vector."""
        for name, child in self.children():
            if isinstance(child, Parameter):
                yield name, child
            else:
                yield from ((f"{name}.{inner}", parameter) for inner, parameter in child.named_parameters())

    @property
    def size(self) -> int:
        """How many numbers the parameters hold together."""
        return sum(parameter.size for _, parameter in self.named_parameters())

    def bind(self, weights: np.ndarray, grads: np.ndarray | None) -> None:
        """Make every parameter a view into ``weights`` and its gradient one into ``grads``, both flat and
        ``size`` long. A model that only evaluates needs no ``grads``.
        """
        start = 0
        for _, child in self.children():
            part = slice(start, start + child.size)
            child.bind(weights[part], None if grads is None else grads[part])
            start += child.size

    def views(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Any vector that is laid out like the parameters, as views by name in the parameters' shapes."""
        result, start = {}, 0
        for name, parameter in self.named_parameters():
            result[name] = flat[start : start + parameter.size].reshape(parameter.shape)
            start += parameter.size
        return result


class Linear(Module):
    """x @ weight.T + bias; ``weight`` is (out_features, in_features), as PyTorch has it."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        self.weight = Parameter(out_features, in_features)
        self.bias = Parameter(out_features) if bias else None

    def __call__(self, tape: Tape, x: Tensor) -> Tensor:
        return ops.linear(tape, x, self.weight) if self.bias is None else ops.linear(tape, x, self.weight, self.bias)


class LayerNorm(Module):
    """Rows normalised to mean 0 and variance 1, then a gain (``weight``) and a bias."""

    def __init__(self, n_channels: int) -> None:
        self.weight = Parameter(n_channels)
        self.bias = Parameter(n_channels)

    def __call__(self, tape: Tape, x: Tensor) -> Tensor:
        return ops.layer_norm(tape, x, self.weight, self.bias)


class Embedding(Module):
    """A row of ``weight`` (vocab_size, n_channels) for each token id."""

    def __init__(self, vocab_size: int, n_channels: int) -> None:
        self.weight = Parameter(vocab_size, n_channels)

    def __call__(self, tape: Tape, tokens: np.ndarray) -> Tensor:
        return ops.embedding(tape, self.weight, tokens=tokens)
