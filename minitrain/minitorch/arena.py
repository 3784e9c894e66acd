"""Memory for the arrays of one step, handed out again at the next.

A fresh NumPy array of some hundred kilobytes is fresh memory from the kernel, page by page, and half
of a training step went into that. An arena keeps its memory: ``empty`` cuts the next piece off a
block, ``reset`` starts over. The same sequence of requests gets the same pieces every step.
"""

import math

import numpy as np

BLOCK_BYTES = 4 << 20
ALIGNMENT = 64  # bytes: a cache line, and the width of the widest vector load


class Arena:
    """Hands out uninitialised arrays of one dtype. ``reset`` makes all earlier ones invalid."""

    def __init__(self, dtype: np.typing.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._blocks: list[np.ndarray] = []
        self._block = 0  # the block being cut
        self._used = 0  # items of it that are handed out

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array of this shape with arbitrary content."""
        size = math.prod(shape)
        per_line = ALIGNMENT // self.dtype.itemsize
        step = -(-size // per_line) * per_line
        while True:
            if self._block == len(self._blocks):
                self._blocks.append(_aligned(max(step, BLOCK_BYTES // self.dtype.itemsize), self.dtype))
            block = self._blocks[self._block]
            if self._used + step <= block.size:
                break
            self._block, self._used = self._block + 1, 0
        array = block[self._used : self._used + size].reshape(shape)
        self._used += step
        return array

    def reset(self) -> None:
        """Take all memory back, without giving any to the system."""
        self._block = self._used = 0


def _aligned(size: int, dtype: np.dtype) -> np.ndarray:
    raw = np.empty(size * dtype.itemsize + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * dtype.itemsize].view(dtype)
