"""How a command starts and how it ends: the settings of its process, its exit code, its last line."""

import ctypes
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from minitrain.base import UserError, formats

# Parameters of mallopt, see malloc.h and mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; the most that glibc takes


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and leave the process: 0, or 1 with one clear line on stderr for a user's mistake, too little
    memory or a full disk; 130 after Ctrl-C, 143 after SIGTERM, 141 when nobody reads its output any more. What it
    prints can be read at once, in a log file too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, _interrupt)
    keep_freed_memory()
    sys.setswitchinterval(1e-6)  # seconds; threads that wait for Python's lock get it sooner: a step is 5 % faster
    try:
        main()
        print(end="", flush=True)  # a full disk shows here, and not in Python's own words at its exit
    except UserError as error:
        sys.exit(f"error: {formats.printable(str(error))}")
    except MemoryError as error:
        reason = formats.printable(str(error)) or "no more is free"
        sys.exit(f"error: not enough memory ({reason}). Choose smaller values in params.yaml, or another machine.")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE, errno.EBADF):
            raise
        # Python tries once more at its exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:  # whoever read what is printed has gone
            sys.exit(141)
        sys.exit(
            f"error: what is printed cannot be written: {error.strerror}. Run again with an output that can be written."
        )
    except KeyboardInterrupt as interrupt:
        number = signal.Signals(*interrupt.args or (signal.SIGINT,))
        print(f"stopped by {number.name}. To go on: run the same command again.", file=sys.stderr)
        sys.exit(128 + number)


def keep_freed_memory() -> None:
    """Tell glibc to keep the memory of freed arrays for the next ones. Other C libraries are left alone.

    A step of training makes and drops some hundred arrays of 100 KB to 1 MB. By default glibc takes each of them
    fresh from the kernel, page by page, filled with zeros, and gives it back at once: half of the time of a step
    went there. Kept memory is handed out again while it is still in the cache.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
