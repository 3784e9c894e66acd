"""The one exception for what a user can mend, and how a command ends because of it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something outside the code is wrong: a file, a key, a value, a machine.

    The message names the place, what was expected, what was got and what to do.
    """


def run_command(main: Callable[[], None]) -> None:
    """Run ``main`` and leave the process: 0, or 1 with one clear line on stderr for a user's mistake; 130 after
    Ctrl-C.
    """
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
