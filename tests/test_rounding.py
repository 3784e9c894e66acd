"""fp16 and bf16 rounding: known values, bounds, and what must pass untouched."""

import numpy as np
import pytest

from minitrain.evaluation.rounding import FORMATS, round_bf16, round_fp16


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_rounding_twice_is_rounding_once_and_within_the_bound(fmt):
    rng = np.random.Generator(np.random.PCG64(0))
    # Normal numbers of both formats: below 2^-14 fp16 has fewer bits, and the bound does not hold.
    x = (rng.uniform(-2, 2, 10_000) * 2.0 ** rng.integers(-4, 10, 10_000)).astype(np.float32)
    x = x[np.abs(x) >= 2.0**-14]
    once = fmt.round(x)
    assert fmt.round(once).tobytes() == once.tobytes()
    relative = np.abs(once - x) / np.abs(x)
    assert 0.9 * fmt.unit_roundoff < relative.max() <= fmt.unit_roundoff


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_integers_and_float64_pass_untouched(fmt):
    for array in (np.array([100_001]), np.array([1 / 3])):
        assert fmt.round(array) is array


def test_the_formats_are_what_the_standard_says():
    fp16, bf16 = FORMATS
    assert (fp16.mantissa_bits, fp16.max) == (10, np.finfo(np.float16).max)
    assert (bf16.mantissa_bits, bf16.max) == (7, (2 - 2**-7) * 2.0**127)


def test_fp16_overflows_to_infinity():
    assert round_fp16(np.array([65504, 65519, 65520, -1e6], np.float32)).tolist() == [65504, 65504, np.inf, -np.inf]


def test_bf16_rounds_ties_to_even_and_keeps_what_is_special():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], np.uint32).view(np.float32)
    expected = np.array([0x3F800000, 0x3F820000, 0x3F810000, 0x3F800000], np.uint32).view(np.float32)
    assert np.array_equal(round_bf16(bits), expected)
    special = round_bf16(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32))
    assert np.isnan(special[0])
    assert special[1:].tolist() == [np.inf, -np.inf, 0.0, -0.0]
    assert np.signbit(special[4])
    all_ones = np.array([0x7FFFFFFF], np.uint32).view(np.float32)  # a NaN that rounding up would turn into -0.0
    assert np.isnan(round_bf16(all_ones)).all()
