"""The one exception for what a user can mend, and how a command ends because of it."""

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """Something outside the code is wrong: a file, a key, a value, a machine.

    The message names the place, what was expected, what was got and what to do.
    """


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and leave the process: 0, or 1 with one clear line on stderr for a user's mistake, too little
    memory or a full disk; 130 after Ctrl-C, 143 after SIGTERM, 141 when nobody reads its output any more. What it
    prints can be read at once, in a log file too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
        if sys.stdout is not None:
            sys.stdout.flush()  # a line without an end: at its exit Python would have words of its own for a full disk
    except UserError as error:
        _fail(str(error))
    except MemoryError as error:
        got = f" ({error})" if str(error) else ""
        _fail(f"not enough memory{got}. Choose smaller values in params.yaml, or a machine with more memory.")
    except BrokenPipeError:  # whoever read what is printed has gone
        _discard(1)
        sys.exit(141)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _discard(1)
        _fail(f"{error.filename or 'what is printed'} cannot be written: {error.strerror}. Make room, then run again.")
    except KeyboardInterrupt as interrupt:
        number = signal.Signals(*interrupt.args or (signal.SIGINT,))
        print(f"stopped by {number.name}. To go on: run the same command again.", file=sys.stderr)
        sys.exit(128 + number)


def _fail(message: str) -> NoReturn:
    try:
        print(f"error: {message}", file=sys.stderr)
    except OSError:  # stderr may go to the same full disk
        _discard(2)
    sys.exit(1)


def _discard(descriptor: int) -> None:
    """Let what could not be written go nowhere: Python tries once more at its exit, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
