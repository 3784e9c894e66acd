"""Rounding float32 to fp16 and bf16 and back: what a narrower format would keep of a number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """A floating-point format. ``round`` takes and returns float32 (other dtypes pass untouched)."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    max: float  # largest finite number
    round: Callable[[np.ndarray], np.ndarray]

    @property
    def unit_roundoff(self) -> float:
        """The bound on the relative error of one rounding to nearest, for normal numbers: 2^-(mantissa bits + 1)."""
        return float(2.0 ** -(self.mantissa_bits + 1))


def round_fp16(x: np.ndarray) -> np.ndarray:
    """float32 -> IEEE half precision -> float32; numbers beyond 65504 become infinite."""
    if x.dtype != np.float32:
        return x
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 -> float32: the upper 16 bits, rounded to nearest, ties to even."""
    if x.dtype != np.float32:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))


FORMATS = (
    Format("fp16", exponent_bits=5, mantissa_bits=10, max=65504.0, round=round_fp16),
    Format(
        "bf16", exponent_bits=8, mantissa_bits=7, max=float(np.uint32(0x7F7F0000).view(np.float32)), round=round_bf16
    ),
)
