"""The ground floor: errors, the start and end of a process, and every file that is read or written."""

from minitrain.base.errors import UserError

__all__ = ["UserError"]
