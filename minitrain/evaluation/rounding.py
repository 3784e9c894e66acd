"""Rounding float32 to fp16 and bf16 and back: what a narrower format would keep of a number."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Format:
    """A floating-point format."""

    name: str
    mantissa_bits: int
    max: float  # largest finite number
    nearest: Callable[[np.ndarray], np.ndarray]  # float32 to float32

    @property
    def unit_roundoff(self) -> float:
        """The bound on the relative error of one rounding to nearest, for normal numbers: 2^-(mantissa bits + 1)."""
        return float(2.0 ** -(self.mantissa_bits + 1))

    def round(self, x: np.ndarray) -> np.ndarray:
        """float32 rounded to the format, as float32; other dtypes pass untouched."""
        return self.nearest(x) if x.dtype == np.float32 else x


def round_fp16(x: np.ndarray) -> np.ndarray:
    """float32 -> IEEE half precision -> float32; numbers beyond 65504 become infinite."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 -> float32: the upper 16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))


FORMATS = (
    Format("fp16", mantissa_bits=10, max=65504.0, nearest=round_fp16),
    Format("bf16", mantissa_bits=7, max=float(np.uint32(0x7F7F0000).view(np.float32)), nearest=round_bf16),
)
