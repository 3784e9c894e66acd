"""Arithmetic that gives the same bits on every machine, whatever kernels compute it.

IEEE 754 fixes + - * / and the square root to the last bit, so elementwise NumPy may run anywhere. Two things it does
not fix: the order in which a matrix product or a sum adds its terms, and exp, log, tanh, cos, which every library
computes in its own way. So here

* the factors of a product are ``rounded`` first, to so few bits that every partial sum is exact. What is exact comes
  out the same in any order: of kernels, of blocks, of threads, with fused multiply-add or without;
* a sum adds in an order of its own (``total``);
* functions are made of + - * /, one NumPy call each, so that no compiler can fuse two of them.

``use("native")`` takes what NumPy and its BLAS have instead: faster (docs/course/tricks.md), but other bits on another
machine. Operations do not know which of the two is in force.

What is assumed: arithmetic as IEEE 754 says, rounding to nearest, with denormal numbers, and a BLAS that multiplies and
adds in float64. ``use("exact")`` checks it. The idea of sums made exact is from Ozaki et al. 2012 and Demmel & Nguyen
2013 (ReproBLAS).
"""

import hashlib
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from minitrain.base.errors import UserError

Arithmetic = Literal["exact", "native"]
FACTOR_BITS = 22  # the most of a factor of a product, see _bits
LN2 = 0.6931471805599453
LN_3_4 = -0.2876820724517809  # ln(3/4)


class Format(NamedTuple):
    """How a float is stored: its bits as an integer, the digits after the point, the bias of the exponent.

    And 2^y for |y| <= 1/2, as (even + y odd) / (even - y odd) with two polynomials in y^2, the coefficient of the
    highest power first: Pade's approximation of e^x.
    """

    bits: type[np.signedinteger[Any]]
    digits: int
    bias: int
    even: tuple[float, ...]
    odd: tuple[float, ...]


_L2 = LN2 * LN2
FORMATS = {
    # Right to 7e-9 and to 2e-19 of the result, so to the last digit of the format.
    np.dtype(np.float32): Format(np.int32, 23, 127, (12 / LN2, 120 / LN2 / _L2), (1, 60 / _L2)),
    np.dtype(np.float64): Format(
        *(np.int64, 52, 1023),
        even=(1, 840 / _L2, 75600 / _L2 / _L2, 665280 / _L2 / _L2 / _L2),
        odd=(42 / LN2, 10080 / LN2 / _L2, 332640 / LN2 / _L2 / _L2),
    ),
}
KNOWN_ANSWER = "78b3760ad18f128d"

_exact = True


def use(arithmetic: Arithmetic) -> None:
    """Choose the arithmetic of this process. UserError where ``exact`` cannot be had."""
    global _exact
    _exact = arithmetic == "exact"
    if _exact:
        check_machine()


# --- products ----------------------------------------------------------------------------------------


def rounded(x: np.ndarray, *axes: int) -> np.ndarray:
    """``x`` as a factor of exact products: whole numbers of a step, which is a power of two; at most 2^22 of them
    (fewer where more than 512 products are added). An error is at most 2^-22 of the largest number, if that is between
    2^-126 and 2^123; above, a result may be infinite or no number.

    There is one step for all of ``x``, or one for each place of the axes that are not named: of (N, C),
    ``rounded(x, 1)`` gives each row its own, and no other row can change it. A product may add only over an axis that
    both factors have named (or that all of the factor shares). float64 is not rounded here: see ``matmul``.
    """
    if not _exact or x.dtype == np.float64:
        return x
    axes = axes or tuple(range(x.ndim))
    return _to_bits(x, axes, _bits(max(x.shape[axis] for axis in axes)))


def _bits(n_terms: int) -> int:
    """How many bits a factor may have: two of them, and as many as ``n_terms`` products add, are at most 53."""
    return min(FACTOR_BITS, (53 - (n_terms - 1).bit_length()) // 2)


def _to_bits(x: np.ndarray, axes: tuple[int, ...], bits: int) -> np.ndarray:
    """``x`` in whole numbers, at most 2^bits of them, of a step for each place of the axes that are not named."""
    form = FORMATS[x.dtype]
    above: Any  # the power of two above the largest number, which is at least half of it
    if len(axes) == x.ndim:
        above = math.ldexp(1.0, math.frexp(max(x.max(initial=0), -x.min(initial=0)))[1])
    else:
        # The exponent field of a float orders magnitudes; alone, it is the power of two below the number.
        field = x.view(form.bits) & ((2 * form.bias + 1) << form.digits)
        for axis in axes:
            field = field.max(axis, keepdims=True, initial=1 << form.digits)
        above = 2 * field.view(x.dtype)
    # Added to this, a number loses all its digits below the step, which is the last digit of the sum.
    shift = 1.5 * 2 ** (form.digits - bits) * above
    result = x + shift
    result -= shift
    return result


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """a @ b, as ``np.matmul`` has it, for matrices and stacks of them whose numbers are ``rounded``.

    The products of two factors of 22 bits are added in float64 without any error; then the sum is rounded once. float64
    factors are taken in two pieces of 22 bits: an entry that is a sum of K products is off by at most
    K * 2^-42 * max|row| * max|column| (K * 2^(2 - 2 b) of b bits, where K is above 512).
    """
    if not _exact:
        return np.matmul(a, b, out=out)
    if a.dtype == np.float32:
        product = np.matmul(a.astype(np.float64), b.astype(np.float64))
    else:
        bits = _bits(a.shape[-1])
        left, right = _to_bits(a, (-1,), bits), _to_bits(b, (-2,), bits)
        rest_left, rest_right = _to_bits(a - left, (-1,), bits), _to_bits(b - right, (-2,), bits)
        product = np.matmul(left, right) + (np.matmul(left, rest_right) + np.matmul(rest_left, right))
    out = np.empty(product.shape, a.dtype) if out is None else out
    out[...] = product
    return out


# --- sums --------------------------------------------------------------------------------------------


def total(x: np.ndarray) -> np.ndarray:
    """The sum over the first axis: what is above the largest power of two is added to what is below, and so on, until
    one row is left. Of at least one row. Off by at most log2(n) roundings, rounded up, of the sum of |x|.
    """
    if not _exact:
        return x.sum(axis=0)
    x = x.copy()  # in the order of its first axis: additions of whole rows are fast
    while len(x) > 1:
        half = 1 << ((len(x) - 1).bit_length() - 1)
        x[: len(x) - half] += x[half:]
        x = x[:half]
    return x[0]


# --- functions ---------------------------------------------------------------------------------------


def exp(x: np.ndarray) -> np.ndarray:
    """e^x, from 0 (below the smallest normal number) to 2^103 (2^999 in float64).

    Relative error at most 4 + 2 |x| times the unit roundoff.
    """
    if not _exact:
        return np.exp(x)
    numerator, denominator, scale = _power_of_two(x * (1 / LN2))
    numerator /= denominator
    numerator *= scale
    return numerator


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), from 0 to 1. Error at most 4 times the unit roundoff."""
    if not _exact:
        result = np.tanh(x * 0.5)
        result += 1
        result *= 0.5
        return result
    numerator, denominator, scale = _power_of_two(x * (-1 / LN2))
    numerator *= scale
    numerator += denominator
    return np.divide(denominator, numerator, out=numerator)


def _power_of_two(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """2^y as numerator / denominator * scale, the last a power of two (0 where it would be denormal). Changes ``y``."""
    form = FORMATS[y.dtype]
    np.maximum(y, -form.bias, out=y)
    np.minimum(y, form.bias - 24, out=y)  # so that numerator * scale is finite
    # Added to this, y loses its fraction; the last bits of the sum are the exponent field of 2^(y rounded).
    shift = float((3 << form.digits - 1) + form.bias)
    shifted = y + shift
    scale = (shifted.view(form.bits) << form.digits).view(y.dtype)
    shifted -= shift
    y -= shifted  # between -1/2 and 1/2
    square = np.multiply(y, y, out=shifted)
    even, odd = _polynomial(form.even, square), _polynomial(form.odd, square)
    odd *= y
    numerator = even + odd
    even -= odd
    return numerator, even, scale


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Horner's scheme, the coefficient of the highest power first."""
    first, second, *others = coefficients
    value = (x if first == 1 else x * first) + second
    for coefficient in others:
        value *= x
        value += coefficient
    return value


def log(x: np.ndarray) -> np.ndarray:
    """ln x of positive, finite numbers; others give nonsense.

    Error at most 4 times the unit roundoff of the larger of 1 and |ln x|.
    """
    if not _exact:
        return np.log(x)
    mantissa, exponent = np.frexp(x)  # 1/2 <= mantissa < 1
    t = (mantissa - 0.75) / (mantissa + 0.75)  # ln(m / 0.75) = 2 artanh(t), |t| <= 1/5
    square = t * t
    n_terms = 6 if x.dtype == np.float32 else 13  # the next one is below the last digit
    series = np.full_like(t, 1 / (2 * n_terms - 1))
    for k in range(2 * n_terms - 3, 0, -2):
        series = series * square + 1 / k
    result: np.ndarray = exponent.astype(x.dtype) * LN2 + (2 * t * series + LN_3_4)
    return result


def cos_sin(angle: Any) -> tuple[Any, Any]:
    """Cosine and sine of a Python float or a float64 array. Off by at most 2e-15 times the largest angle (or 1)."""
    doublings = max(0, int(np.frexp(np.max(np.abs(angle)))[1]) + 2)
    part = angle * 0.5**doublings  # |part| <= 1/4: there, Taylor's series to the 15th power is right
    square = part * part
    cos = sin = 1.0
    for k in range(14, 0, -2):
        cos, sin = 1 - square * cos / (k * (k - 1)), 1 - square * sin / (k * (k + 1))
    sin = part * sin
    for _ in range(doublings):
        cos, sin = cos * cos - sin * sin, 2 * sin * cos
    return cos, sin


def power(x: float, n: int) -> float:
    """x^n for a whole n >= 0, by squaring. (Python's ``x**n`` is the C library's.) Relative error at most n * 2e-16."""
    result = 1.0
    while n:
        if n % 2:
            result *= x
        x *= x
        n //= 2
    return result


# --- is this machine one of them? ----------------------------------------------------------------------


def check_machine() -> None:
    """UserError where exact arithmetic cannot be had: numbers do not round as IEEE 754 says, or a known product, sum or
    function comes out different.
    """
    tiny, half_bit = np.array([1e-310, 1e-40]), np.array([2.0**-53])
    if not (tiny[:1] * 0.5).all() or not (tiny[1:].astype(np.float32) * np.float32(0.5)).all():
        raise UserError(
            "this process counts very small numbers as 0 (flush-to-zero), against IEEE 754: another library has "
            "switched that on. Start Python without it, or set model.arithmetic: native."
        )
    if (1 + half_bit != 1).any() or (1 + 1.5 * half_bit == 1).any() or (-1 - half_bit != -1).any():
        raise UserError(
            "this process does not round to the nearest number, against IEEE 754: another library has changed that. "
            "Start Python without it, or set model.arithmetic: native."
        )
    if (got := known_answer()) != KNOWN_ANSWER:
        raise UserError(
            f"exact arithmetic: expected the known answer {KNOWN_ANSWER}, got {got}: NumPy {np.__version__} or its "
            "BLAS does not compute as IEEE 754 says. Install another NumPy, or set model.arithmetic: native."
        )


def known_answer() -> str:
    """A digest of some products, sums and functions, as this machine computes them."""
    x = (np.arange(48 * 256) * 0.6180339887498949 % 1 - 0.5).reshape(48, 256)
    x32 = x.astype(np.float32)
    stack = rounded(x32.reshape(8, 4, 24, 16), 2, 3)
    # 22 bits by 22 bits by 512 terms: whole numbers whose sums fill the 53 bits of a float64.
    whole = (np.random.PCG64(0).random_raw(64 * 512) >> np.uint64(42)).astype(np.float64)
    results = [np.matmul(whole.reshape(64, 512), whole.reshape(512, 64))]
    results += [matmul(stack, stack.swapaxes(2, 3)), matmul(rounded(x32, 1), rounded(x32).T), matmul(x, x.T)]
    for y in (x, x32):
        results += [total(y), exp(y * 50), logistic(y * 50), log(y + 1), np.sqrt(y + 1), 1 / (y + 1)]
    results += [*cos_sin(x * 60), np.array(power(0.95, 1234))]
    return hashlib.sha256(b"".join(result.tobytes() for result in results)).hexdigest()[:16]
