"""Exact arithmetic: the same bits from any kernel, in any order of terms, in any batch; and how far off it may be."""

from fractions import Fraction

import numpy as np
import pytest
from conftest import TINY_MODEL, refused, run_python

from minitrain.base import UserError
from minitrain.dataset.batches import pad
from minitrain.minitorch import arithmetic, ops, sequence_ops
from minitrain.minitorch.tape import Tape
from minitrain.model import Dropout, MiniGPT, initial_weights
from minitrain.scoring import token_nll

ROUNDOFF = {np.float32: Fraction(1, 2**24), np.float64: Fraction(1, 2**53)}
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def numbers(shape, dtype=np.float32, spread=1.0, seed=0):
    """Numbers whose magnitudes differ by e^spread and more."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return (rng.normal(size=shape) * np.exp(spread * rng.normal(size=shape))).astype(dtype)


def tiny_model(dtype=np.float32):
    weights = initial_weights(MiniGPT(TINY_MODEL), np.random.Generator(np.random.PCG64(1))).astype(dtype)
    return MiniGPT.with_weights(TINY_MODEL, weights, np.zeros_like(weights))


def true_product(a, b):
    return [[sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(row, column)) for column in b.T] for row in a]  # noqa: B905


# --- products ----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("n_terms", [1, 3, 64, 512, 700])
def test_a_product_is_within_its_bound(dtype, n_terms):
    a, b = numbers((4, n_terms), dtype), numbers((n_terms, 3), dtype, seed=1)
    if dtype == np.float32:
        a, b = arithmetic.rounded(a, 1), arithmetic.rounded(b, 0)
    got, exact = arithmetic.matmul(a, b), true_product(a, b)
    for i, row in enumerate(exact):
        for j, entry in enumerate(row):
            largest = Fraction(float(np.abs(a[i]).max())) * Fraction(float(np.abs(b[:, j]).max()))
            bits = 42 if n_terms <= 512 else 40  # 2 b - 2
            bound = ROUNDOFF[dtype] * abs(entry) + (dtype == np.float64) * n_terms * largest / 2**bits
            assert abs(Fraction(float(got[i, j])) - entry) <= bound


def test_no_order_of_the_terms_changes_a_product():
    a, b = arithmetic.rounded(numbers((5, 300)), 1), arithmetic.rounded(numbers((300, 6), seed=1))
    product = arithmetic.matmul(a, b)
    for order in (np.arange(300)[::-1], np.argsort(numbers(300, seed=2))):
        assert arithmetic.matmul(a[:, order], b[order]).tobytes() == product.tobytes()
    added_by_python = [[np.float32(float(entry)) for entry in row] for row in true_product(a, b)]
    assert np.array(added_by_python).tobytes() == product.tobytes()


@pytest.mark.parametrize(("n_terms", "all_bits"), [(512, True), (513, False), (4096, False)])
def test_of_more_than_512_products_each_factor_has_fewer_bits(n_terms, all_bits):
    x = np.full((1, n_terms), np.float32(1 - 2**-22))
    assert (arithmetic.rounded(x, 1) == x).all() == all_bits


# --- sums and functions ------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("n", [1, 2, 3, 64, 100])
def test_a_total_is_within_its_bound_and_zeros_at_the_end_change_no_bit(dtype, n):
    x = numbers((n, 4), dtype)
    got = arithmetic.total(x)
    for column, value in zip(x.T, got, strict=True):
        exact = [Fraction(float(number)) for number in column]
        assert abs(Fraction(float(value)) - sum(exact)) <= 7 * ROUNDOFF[dtype] * sum(map(abs, exact))
    assert arithmetic.total(np.concatenate([x, np.zeros((9, 4), dtype)])).tobytes() == got.tobytes()


LINE = np.linspace(-80, 70, 20001)
# Of each function: the true one, where it is tried, and the bound in units of roundoff, given x and the true value.
FUNCTIONS = {
    "exp": (np.exp, LINE, lambda x, exact: (4 + 2 * np.abs(x)) * exact),
    "logistic": (lambda x: np.exp(x) / (1 + np.exp(x)), LINE, lambda x, exact: 4),
    "log": (np.log, np.exp(LINE), lambda x, exact: 4 * np.maximum(1, np.abs(exact))),
}


@BOTH
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_within_its_bound(dtype, name):
    true, x, bound = FUNCTIONS[name]
    x = x.astype(dtype)
    exact = true(x.astype(np.longdouble))
    assert (np.abs(getattr(arithmetic, name)(x) - exact) <= bound(x, exact) * float(ROUNDOFF[dtype])).all()


def test_a_masked_key_weighs_exactly_nothing_and_large_numbers_stay_finite():
    got = arithmetic.exp(np.array([-np.inf, -1e30, -88, 0, 1e30], np.float32))
    assert got[:4].tolist() == [0, 0, 0, 1]
    assert np.isfinite(got).all()
    smallest, *others = arithmetic.logistic(np.array([-np.inf, 0, 200, np.inf], np.float32)).tolist()
    assert 0 <= smallest <= 2**-103
    assert others == [0.5, 1, 1]


# --- a sequence scores the same bits alone, in any batch, with any padding ---------------------------


@BOTH
def test_a_sequence_scores_the_same_bits_in_any_batch(val_set, dtype):
    model = tiny_model(dtype)
    alone = token_nll(model, val_set, batch_size=1)
    for batch_size in (2, 3, 7):
        assert token_nll(model, val_set, batch_size=batch_size).tobytes() == alone.tobytes()


def test_with_one_step_of_rounding_for_a_whole_batch_it_would_not(val_set, monkeypatch):
    for module in (ops, sequence_ops):
        monkeypatch.setattr(module, "rounded", lambda x, *_: arithmetic.rounded(x))
    model = tiny_model()
    assert token_nll(model, val_set, batch_size=1).tobytes() != token_nll(model, val_set, batch_size=7).tobytes()


# --- nothing goes into a product as it is ----------------------------------------------------------------


def is_rounded(factor, axis):
    """Whether all numbers that meet in one sum are whole multiples of 2^-22 of the power of two above the largest."""
    _, exponent = np.frexp(np.abs(factor).max(axis, keepdims=True).astype(np.float64))
    whole = factor * 2.0 ** (22 - exponent)
    return bool((whole == np.rint(whole)).all())


def test_every_factor_of_every_product_is_rounded(val_set, monkeypatch):
    seen = []

    def matmul(a, b, out=None):
        seen.append((is_rounded(a, -1), is_rounded(b, -2)))
        return arithmetic.matmul(a, b, out)

    for module in (ops, sequence_ops):
        monkeypatch.setattr(module, "matmul", matmul)
    model, tape, shard = tiny_model(), Tape(), pad(val_set, np.arange(len(val_set)))
    dropout = Dropout(0.2, 0.2, 0.2, np.random.Generator(np.random.SFC64(0)))
    tape.backward(model.loss(tape, shard, shard.n_targets, dropout))
    model.logits(Tape(recording=False), shard.tokens)
    assert len(seen) > 30
    assert all(all(factors) for factors in seen)
    assert not is_rounded(numbers((5, 30)), -1)  # the negative control


# --- the same bits from other kernels ------------------------------------------------------------------

KERNELS = (
    {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
    {"OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
)
# Three steps with the arithmetic as it is, and with each of its functions in turn as NumPy and its BLAS have it.
SHORT_RUNS = """
import hashlib, numpy as np  # before minitrain: that must not matter either
from conftest import TINY_TRAIN, random_store
from dataclasses import replace
from minitrain.base.tensors import encode_tensors
from minitrain.loop import train
from minitrain.minitorch import arithmetic, ops, sequence_ops
from minitrain.params import ModelConfig
from minitrain.training.checkpoint import state_tensors
from minitrain.training.state import initial_state

model = ModelConfig(vocab_size=64, d_model=64, n_heads=4, n_layers=1, d_ff=256, context=32)
config = replace(TINY_TRAIN, steps=3, microshards=1)
store = random_store(20, seed=1, vocab_size=64, longest=30)

def run():
    state = initial_state(model, config)
    for event in train(state, store, store, model, config): pass
    return hashlib.sha256(encode_tensors(state_tensors(state))).hexdigest()

def native(function):
    def twin(*args, **settings):
        arithmetic.use("native")
        try: return function(*args, **settings)
        finally: arithmetic.use("exact")
    return twin

print("exact", run())
for name in ("matmul", "exp", "logistic"):
    function = getattr(arithmetic, name)
    for module in (ops, sequence_ops): setattr(module, name, native(function))
    print(name, run())
    for module in (ops, sequence_ops): setattr(module, name, function)
"""


def test_other_kernels_give_the_same_bits_and_no_function_could_be_numpys_own(root):
    digests = []
    for kernels in KERNELS:
        result = run_python(root, "-c", SHORT_RUNS, **kernels, PYTHONPATH=f"{root}:{root / 'tests'}")
        assert result.returncode == 0, result.stderr
        digests.append(dict(line.split() for line in result.stdout.splitlines()))
    same = {name for name in digests[0] if digests[0][name] == digests[1][name]}
    assert same == {"exact"}


# --- a machine that does not compute as IEEE 754 says --------------------------------------------------

# The control word of the SSE unit is at byte 28 of glibc's fenv_t: 0x8040 is flush-to-zero, 0x4000 rounds up.
BROKEN = """
import ctypes
from minitrain.base import process
from minitrain.minitorch import arithmetic

def main():
    libm, environment = ctypes.CDLL("libm.so.6"), ctypes.create_string_buffer(64)
    libm.fegetenv(environment)
    word = int.from_bytes(environment[28:32], "little") | BITS
    environment[28:32] = word.to_bytes(4, "little")
    libm.fesetenv(environment)
    arithmetic.use("exact")

process.run_command(main)
"""


@pytest.mark.parametrize(
    ("bits", "message"), [(0x8040, "very small numbers as 0"), (0x4000, "does not round to the nearest")]
)
def test_a_process_that_breaks_ieee_754_is_refused_by_name(root, bits, message):
    assert message in refused(run_python(root, "-c", BROKEN.replace("BITS", str(bits))))


def test_a_library_that_multiplies_in_another_way_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(arithmetic.np, "matmul", lambda a, b, out=None: (a @ b) * (1 + 2**-52))  # off in the last bit
    with pytest.raises(UserError, match="known answer"):
        arithmetic.use("exact")


def test_native_is_numpys_own(back_to_exact):
    arithmetic.use("native")
    a, b = numbers((5, 30)), numbers((30, 6), seed=1)
    assert arithmetic.matmul(arithmetic.rounded(a), b).tobytes() == (a @ b).tobytes()
    assert arithmetic.exp(a).tobytes() == np.exp(a).tobytes()
    assert arithmetic.log(np.abs(a)).tobytes() == np.log(np.abs(a)).tobytes()
    assert arithmetic.total(a).tobytes() == a.sum(axis=0).tobytes()
