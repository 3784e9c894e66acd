"""Every operation of the table: its gradient by finite differences, its result by a plain formula."""

import math

import numpy as np
import pytest

from minitrain.minitorch import ops, sequence_ops
from minitrain.minitorch.gradcheck import gradcheck
from minitrain.minitorch.tape import Op, Tape, Tensor

BOUND = 1e-6  # on the relative error of a gradient, float64
B, T, H, D, C, V = 2, 5, 2, 4, 8, 7


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, *shape])).normal(size=shape)


def dropout_mask(*shape: int) -> np.ndarray:
    """A fixed dropout mask, scaled."""
    return np.floor(np.random.Generator(np.random.PCG64(9)).random(shape) + 0.6) / 0.6


def causal_with_pads(real: np.ndarray) -> np.ndarray:
    """(B, T), False at pads -> (key, B, 1, query)."""
    visible = np.triu(np.ones((real.shape[1],) * 2, dtype=bool))[:, None] & real.T[:, :, None]
    return np.where(visible, 0.0, -np.inf)[:, :, None]


Case = tuple[Op, list[np.ndarray], dict]  # operation, inputs, settings


def cases(B: int, T: int, H: int, D: int, V: int) -> dict[str, Case]:
    """A case or two of every operation, by name. Each sequence is two tokens shorter than the one before."""
    C, real = H * D, np.arange(T) < T - 2 * np.arange(B)[:, None]
    tokens = np.resize([3, 0, 3, 6, 3], T)  # a token thrice: gradients of one row must add up
    padding, mask = sequence_ops.Padding.of(real), causal_with_pads(real)
    return {
        "embedding": (ops.embedding, [normal(V, C)], {"tokens": tokens}),
        "linear": (ops.linear, [normal(T, C), normal(3, C)], {}),
        "linear with bias": (ops.linear, [normal(T, C), normal(3, C), normal(3)], {}),
        "layer_norm": (ops.layer_norm, [normal(T, C), normal(C, seed=1), normal(C, seed=2)], {}),
        "gelu": (ops.gelu, [3 * normal(T, C)], {}),
        "add_padding": (sequence_ops.add_padding, [normal(int(real.sum()), C)], {"padding": padding}),
        "remove_padding": (sequence_ops.remove_padding, [normal(B, T, C)], {"padding": padding}),
        "rope": (
            sequence_ops.rope,
            [normal(B, T, 3 * C)],
            {"rotations": sequence_ops.rope_rotations(T, H, D, 10000.0, np.float64)},
        ),
        "attention": (sequence_ops.attention, [normal(B, T, 3 * C)], {"mask": mask, "n_heads": H}),
        "attention with dropout": (
            sequence_ops.attention,
            [normal(B, T, 3 * C)],
            {"mask": mask, "n_heads": H, "dropout_mask": dropout_mask(T, B, H, T)},
        ),
        "dropout": (ops.dropout, [normal(T, C)], {"dropout_mask": dropout_mask(T, C)}),
        "residual": (ops.residual, [normal(T, C), normal(T, C, seed=1)], {}),
        "residual with dropout": (
            ops.residual,
            [normal(T, C), normal(T, C, seed=1)],
            {"dropout_mask": dropout_mask(T, C)},
        ),
        "tied_cross_entropy": (
            ops.tied_cross_entropy,
            [normal(T, C), normal(V, C, seed=1)],
            {"targets": tokens, "n_targets": 6},
        ),
    }


CASES = cases(B, T, H, D, V)
LARGE_CASES = cases(4, 29, 4, 16, 64)  # as in the locked model, so that vector loops have something to do
TOKENS, ROTATIONS = CASES["embedding"][2]["tokens"], CASES["rope"][2]["rotations"]
PADDING, MASK = CASES["add_padding"][2]["padding"], CASES["attention"][2]["mask"]


def in_float32(settings: dict) -> dict:
    """Settings of a case as float32 training has them."""
    narrow = {"f": np.float32, "c": np.complex64}
    return {
        key: value.astype(narrow.get(value.dtype.kind, value.dtype)) if isinstance(value, np.ndarray) else value
        for key, value in settings.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name):
    op, inputs, settings = CASES[name]
    assert gradcheck(op, inputs, settings) <= BOUND


def test_the_cases_cover_the_table():
    all_ops = [value for module in (ops, sequence_ops) for value in vars(module).values() if isinstance(value, Op)]
    assert {id(op) for op, _, _ in CASES.values()} == {id(op) for op in all_ops}


@pytest.mark.parametrize("name", CASES)
def test_deleting_any_single_gradient_is_noticed(name):
    """The negative control: without the formula of one input - no gradient, or zeros - the check goes red."""
    op, inputs, settings = CASES[name]
    for index in range(len(inputs)):

        def missing(*args, index=index):
            grads = list(op.backward(*args))
            grads[index] = None
            return tuple(grads)

        def zero(*args, index=index):
            grads = list(op.backward(*args))
            grads[index] = np.zeros_like(grads[index])
            return tuple(grads)

        with pytest.raises(AssertionError, match=f"gradient of input {index}: missing"):
            gradcheck(Op(op.forward, missing), inputs, settings)
        assert gradcheck(Op(op.forward, zero), inputs, settings) > BOUND


@pytest.mark.parametrize("name", CASES)
def test_float32_computes_in_float32_and_close_to_float64(name):
    op, inputs, settings = CASES[name]
    results = {}
    for dtype in (np.float32, np.float64):
        narrow = in_float32(settings) if dtype == np.float32 else settings
        tape = Tape()
        tensors = [Tensor(array.astype(dtype)) for array in inputs]
        output = op(tape, *tensors, **narrow)
        tape.backward(output)
        results[dtype] = [output.data, *(tensor.grad for tensor in tensors)]
        assert all(array.dtype == dtype for array in results[dtype])
    for single, double in zip(results[np.float32], results[np.float64], strict=True):
        np.testing.assert_allclose(single, double, rtol=2e-4, atol=2e-5)


# --- results against plain formulas ------------------------------------------------------------------


def forward(op: Op, *inputs: np.ndarray, **settings) -> np.ndarray:
    return op(Tape(recording=False), *map(Tensor, inputs), **settings).data


def test_layer_norm_formula():
    x, weight, bias = normal(T, C), normal(C, seed=1), normal(C, seed=2)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(forward(ops.layer_norm, x, weight, bias), expected, rtol=1e-12)


def test_gelu_formula():
    x = np.linspace(-30, 30, 101).reshape(1, -1)
    expected = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(forward(ops.gelu, x), expected, rtol=1e-12, atol=1e-300)


def test_padding_puts_rows_in_their_places_and_takes_them_out_again():
    x = normal(8, C)
    padded = forward(sequence_ops.add_padding, x, padding=PADDING)
    assert np.array_equal(padded, np.concatenate([x, np.zeros((2, C))]).reshape(B, T, C))
    assert np.array_equal(forward(sequence_ops.remove_padding, padded, padding=PADDING), x)


def test_rope_formula():
    """Pair (x[2j], x[2j+1]) at position t turns by t * 10000^(-2j/D); q is divided by sqrt(D) as well; v stays."""
    x = normal(B, T, 3, H, D)
    expected = x.copy()
    for t in range(T):
        for j in range(D // 2):
            angle = t * 10000.0 ** (-2 * j / D)
            a, b = x[:, t, :2, :, 2 * j], x[:, t, :2, :, 2 * j + 1]
            expected[:, t, :2, :, 2 * j] = a * math.cos(angle) - b * math.sin(angle)
            expected[:, t, :2, :, 2 * j + 1] = a * math.sin(angle) + b * math.cos(angle)
    expected[:, :, 0] /= math.sqrt(D)
    got = forward(sequence_ops.rope, x.reshape(B, T, -1), rotations=ROTATIONS)
    np.testing.assert_allclose(got.reshape(x.shape), expected, rtol=1e-12)


def test_attention_formula():
    x, out = normal(B, T, 3, H, D), np.zeros((B, T, H, D))
    for b in range(B):
        n_real = T if b == 0 else T - 2
        for h in range(H):
            q, k, v = x[b, :, 0, h], x[b, :, 1, h], x[b, :, 2, h]
            for t in range(T):
                seen = min(t + 1, n_real)
                scores = np.exp(k[:seen] @ q[t])
                out[b, t, h] = scores / scores.sum() @ v[:seen]
    got = forward(sequence_ops.attention, x.reshape(B, T, -1), mask=MASK, n_heads=H)
    np.testing.assert_allclose(got, out.reshape(B, T, -1), rtol=1e-10)


def test_cross_entropy_formula():
    hidden, weight = normal(T, C), normal(V, C, seed=1)
    logits = hidden @ weight.T
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(T), TOKENS]
    settings = {"targets": TOKENS, "n_targets": 6}
    np.testing.assert_allclose(forward(ops.tied_cross_entropy, hidden, weight, **settings), [nll.sum() / 6])


@pytest.mark.parametrize("name", CASES)
def test_where_an_array_is_in_memory_changes_no_bit(name):
    """Vector loops may treat the ends of an array apart; malloc aligns to 16 bytes only."""
    op, inputs, settings = LARGE_CASES[name]
    settings = in_float32(settings)
    results = set()
    for shift in range(0, 64, 16):
        tape, tensors = Tape(), []
        for array in inputs:
            memory = np.empty(array.size * 4 + 128, np.uint8)
            start = -memory.ctypes.data % 64 + shift
            placed = memory[start : start + array.size * 4].view(np.float32).reshape(array.shape)
            placed[...] = array
            tensors.append(Tensor(placed))
        output = op(tape, *tensors, **settings)
        data = output.data.tobytes()
        tape.backward(output)
        results.add((data, *(tensor.grad.tobytes() for tensor in tensors)))
    assert len(results) == 1


def test_large_logits_and_scores_do_not_overflow():
    hidden, weight = 1e4 * normal(T, C), normal(V, C, seed=1)
    settings = {"targets": TOKENS, "n_targets": 5}
    assert np.isfinite(forward(ops.tied_cross_entropy, hidden, weight, **settings)).all()
    assert np.isfinite(forward(sequence_ops.attention, 1e3 * normal(B, T, 3 * C), mask=MASK, n_heads=H)).all()
