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


BF16_BITS = {0x3F808000: 0x3F800000, 0x3F818000: 0x3F820000, 0x3F808001: 0x3F810000, 0x3F807FFF: 0x3F800000}


def test_known_values_overflow_and_ties_to_even():
    assert round_fp16(np.array([65504, 65519, 65520, -1e6], np.float32)).tolist() == [65504, 65504, np.inf, -np.inf]
    x, expected = np.array([[*BF16_BITS.keys()], [*BF16_BITS.values()]], np.uint32).view(np.float32)
    assert np.array_equal(round_bf16(x), expected)


def test_bf16_keeps_what_is_special():
    special = np.array([np.inf, -np.inf, 0.0, -0.0], np.float32)
    assert round_bf16(special).tobytes() == special.tobytes()
    not_numbers = np.array([0x7FC00000, 0x7FFFFFFF], np.uint32).view(np.float32)  # rounded up, the second would be -0.0
    assert np.isnan(round_bf16(not_numbers)).all()
