"""The one exception for what a user can mend, and how a command ends because of it."""

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


class UserError(Exception):
    """Something outside the code is wrong: a file, a key, a value, a machine.

    The message names the place, what was expected, what was got and what to do.
    """


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and leave the process: 0, or 1 with one clear line on stderr for a user's mistake; 130 after
    Ctrl-C, 143 after SIGTERM, 141 when nobody reads its output any more. What it prints can be read at once, in a
    log file too.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever read what is printed has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt as interrupt:
        number = signal.Signals(*interrupt.args or (signal.SIGINT,))
        print(f"stopped by {number.name}. To go on: run the same command again.", file=sys.stderr)
        sys.exit(128 + number)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(number)
