"""Memory that is freed stays with the process, for the next array.

A step of training makes and drops some hundred arrays of 100 KB to 1 MB. glibc takes each of that size
fresh from the kernel, which hands it over page by page, filled with zeros, and gives it back at once:
half of the time of a step went there. Kept, the memory that was freed last is handed out first, and is
still in the cache.
"""

import ctypes

# Parameters of mallopt, see malloc.h and mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; the most that glibc takes


def keep_freed_memory() -> None:
    """Tell the C library so, once for the process. Where it is not glibc, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
