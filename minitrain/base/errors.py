"""The one exception for what a user can fix."""


class UserError(Exception):
    """Something outside the code is wrong: a file, a key, a value, a machine.

    The message names the place, what was expected, what was got and what to do.
    """
