"""Every operation of the table: its gradient by finite differences, and large numbers.

That an operation's result is the right one, the model as a whole tells: see test_plain.py.
"""

import numpy as np
import pytest

from minitrain.minitorch import ops, sequence_ops
from minitrain.minitorch.gradcheck import gradcheck
from minitrain.minitorch.tape import Op, Tape, Tensor

BOUND = 1e-6  # on the relative error of a gradient, float64


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, *shape])).normal(size=shape)


def dropout_mask(*shape: int) -> np.ndarray:
    """A fixed dropout mask, scaled."""
    return np.floor(np.random.Generator(np.random.PCG64(9)).random(shape) + 0.6) / 0.6


Case = tuple[Op, list[np.ndarray], dict]  # operation, inputs, settings


def cases(B: int, T: int, H: int, D: int, V: int) -> dict[str, Case]:
    """A case or two of every operation, by name. Each sequence is two tokens shorter than the one before."""
    C, real = H * D, np.arange(T) < T - 2 * np.arange(B)[:, None]
    tokens = np.resize([3, 0, 3, 6, 3], T)  # a token thrice: gradients of one row must add up
    padding = {"padding": sequence_ops.Padding.of(real)}
    rotations = {"rotations": sequence_ops.rope_rotations(T, H, D, 10000.0, np.float64)}
    heads = {"mask": sequence_ops.attention_mask(real, np.dtype(np.float64)), "n_heads": H}
    x, branch, qkv = normal(T, C), normal(T, C, seed=1), normal(B, T, 3 * C)
    dropped = {"dropout_mask": dropout_mask(T, C)}
    return {
        "embedding": (ops.embedding, [normal(V, C)], {"tokens": tokens}),
        "linear": (ops.linear, [x, normal(3, C)], {}),
        "linear with bias": (ops.linear, [x, normal(3, C), normal(3)], {}),
        "layer_norm": (ops.layer_norm, [x, normal(C, seed=1), normal(C, seed=2)], {}),
        "gelu": (ops.gelu, [3 * x], {}),
        "add_padding": (sequence_ops.add_padding, [normal(int(real.sum()), C)], padding),
        "remove_padding": (sequence_ops.remove_padding, [normal(B, T, C)], padding),
        "rope": (sequence_ops.rope, [qkv], rotations),
        "attention": (sequence_ops.attention, [qkv], heads),
        "attention with dropout": (sequence_ops.attention, [qkv], heads | {"dropout_mask": dropout_mask(T, B, H, T)}),
        "dropout": (ops.dropout, [x], dropped),
        "residual": (ops.residual, [x, branch], {}),
        "residual with dropout": (ops.residual, [x, branch], dropped),
        "tied_cross_entropy": (
            ops.tied_cross_entropy,
            [x, normal(V, C, seed=1)],
            {"targets": tokens, "n_targets": 6},
        ),
    }


CASES = cases(B=2, T=5, H=2, D=4, V=7)


def test_the_table_has_every_operation():
    all_ops = [value for module in (ops, sequence_ops) for value in vars(module).values() if isinstance(value, Op)]
    assert {id(op) for op, _, _ in CASES.values()} == {id(op) for op in all_ops}


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_finite_differences(name):
    op, inputs, settings = CASES[name]
    assert gradcheck(op, inputs, settings) <= BOUND


@pytest.mark.parametrize("name", CASES)
def test_without_the_gradient_of_any_one_input_the_check_goes_red(name):
    """The negative control: an operation that forgets one gradient, or gives zeros for it."""
    op, inputs, settings = CASES[name]

    def with_gradient(index, instead):
        def backward(*args):
            grads = list(op.backward(*args))
            grads[index] = instead
            return tuple(grads)

        return Op(op.forward, backward)

    for index, array in enumerate(inputs):
        with pytest.raises(AssertionError, match=f"^{name.split()[0]}: gradient of input {index}: missing"):
            gradcheck(with_gradient(index, None), inputs, settings)
        assert gradcheck(with_gradient(index, np.zeros_like(array)), inputs, settings) > BOUND


# --- large numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gelu", "attention"])
def test_large_numbers_do_not_overflow(name):
    op, (x,), settings = CASES[name]
    tape, tensor = Tape(), Tensor(1e4 * x)
    output = op(tape, tensor, **settings)
    tape.backward(output)
    assert np.isfinite(output.data).all()
    assert np.isfinite(tensor.grad).all()


def test_the_loss_of_large_logits_is_right():
    hidden, weight = np.array([[1000.0], [1000.0]]), np.array([[1.0], [0.0]])  # the logits of both rows: 1000 and 0
    loss = ops.tied_cross_entropy(Tape(), Tensor(hidden), Tensor(weight), targets=np.array([0, 1]), n_targets=1)
    assert loss.data == pytest.approx(0 + 1000)
