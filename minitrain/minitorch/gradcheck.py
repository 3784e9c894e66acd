"""Is a gradient right? Compare it with central finite differences, in float64."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minitrain.minitorch.tape import Op, Tape, Tensor


def _weighted_sum_forward(x: np.ndarray, weighting: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray]]:
    """The sum of all numbers, each with its own weight: shape ()."""
    return np.asarray(np.sum(x * weighting)), (weighting,)


def _weighted_sum_backward(dout: np.ndarray, weighting: np.ndarray) -> tuple[np.ndarray]:
    return (dout * weighting,)


_weighted_sum = Op(_weighted_sum_forward, _weighted_sum_backward)


def gradcheck(op: Op, inputs: Sequence[np.ndarray], settings: dict[str, Any], eps: float = 1e-6) -> float:
    """The largest relative error of any gradient of ``op`` at ``inputs`` (float64).

    The output is reduced to a number by a fixed random weighting, so that every output counts. The
    error of an input is max|analytic - numeric| / max|numeric|. Raises AssertionError, naming the
    stage, when a shape or dtype is wrong or an input was changed.
    """

    def run() -> tuple[Tape, list[Tensor], Tensor]:
        tape = Tape()
        tensors = [Tensor(array) for array in inputs]
        output = op(tape, *tensors, **settings)
        assert output.data.dtype == np.float64, f"{op.name}: forward: expected float64, got {output.data.dtype}"
        weighting = np.random.Generator(np.random.PCG64(0)).normal(size=output.data.shape)
        return tape, tensors, _weighted_sum(tape, output, weighting=weighting)

    before = [array.copy() for array in inputs]
    tape, tensors, loss = run()
    tape.backward(loss)
    worst = 0.0
    for index, (array, tensor) in enumerate(zip(inputs, tensors, strict=True)):
        where = f"{op.name}: gradient of input {index}"
        assert np.array_equal(array, before[index]), f"{op.name}: input {index} was changed"
        assert tensor.grad is not None, f"{where}: missing"
        assert tensor.grad.shape == array.shape, f"{where}: expected shape {array.shape}, got {tensor.grad.shape}"
        assert tensor.grad.dtype == np.float64, f"{where}: expected float64, got {tensor.grad.dtype}"
        numeric = numeric_gradient(lambda: float(run()[2].data), array, eps)
        worst = max(worst, relative_error(tensor.grad, numeric))
    return worst


def numeric_gradient(f: Callable[[], float], array: np.ndarray, eps: float) -> np.ndarray:
    """Central differences of ``f`` with respect to ``array``, which ``f`` reads; one number at a time."""
    numeric = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + eps
        up = f()
        array[index] = value - eps
        down = f()
        array[index] = value
        numeric[index] = (up - down) / (2 * eps)
    return numeric


def relative_error(analytic: np.ndarray, numeric: np.ndarray) -> float:
    """max|analytic - numeric| / max|numeric|; 0 when both are zero everywhere."""
    difference = float(np.max(np.abs(analytic - numeric), initial=0.0))
    return difference / max(float(np.max(np.abs(numeric), initial=0.0)), 1e-12)
