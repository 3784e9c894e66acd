"""A stand-in for the module ``os`` in minitrain.base.files, the one module that writes: one operation goes wrong."""

import functools
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

OPERATIONS = ("open", "write", "fsync", "close", "replace", "unlink")  # all that the writer does with files
Fault = Callable[..., Any]  # what happens instead of an operation; called with the real function and its arguments


class FailingOs:
    """The Nth of some operations meets the fault, and so do all after it if ``lasting``. The rest is the real ``os``.

    Used as ``mock.patch.object(files, "os", FailingOs(...))``.
    """

    def __init__(self, at: int, fault: Fault, operations: Sequence[str] = OPERATIONS, lasting: bool = False) -> None:
        self.left, self.fault, self.operations, self.lasting = at, fault, operations, lasting
        self.hit = False  # whether the fault was met at all

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return functools.partial(self._operation, real) if name in self.operations else real

    def _operation(self, real: Callable[..., Any], *args: Any) -> Any:
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self.lasting):
            self.hit = True
            return self.fault(real, *args)
        return real(*args)


def error(number: int) -> Fault:
    """The operation fails with this errno."""

    def fail(real: Callable[..., Any], *args: Any) -> None:
        if real is os.close:
            real(*args)  # the descriptor is gone even when close reports an error
        raise OSError(number, os.strerror(number))

    return fail


def half(real: Callable[..., Any], descriptor: int, data: bytes) -> Any:
    """A short write, which is no error: half of the bytes get out."""
    return real(descriptor, data[: max(1, len(data) // 2)])


def sigkill(real: Callable[..., Any], *args: Any) -> None:
    """The process dies right before the operation; when it is a write, in the middle of it."""
    if real is os.write:
        half(real, *args)
    os.kill(os.getpid(), signal.SIGKILL)
