# For type checkers and editors, which cannot see what __init__.py imports when it is asked for.
from minitrain.api import *  # noqa: F403
