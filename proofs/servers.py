"""Real servers on loopback, for as long as a proof needs them."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from minitrain.base import UserError

SECONDS = 120  # to wait for a server to start, or for a queue to end


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Ask again and again; UserError when it takes too long."""
    end = time.monotonic() + SECONDS
    while not happened():
        if time.monotonic() > end:
            raise UserError(f"expected within {SECONDS} seconds: {what}")
        time.sleep(0.5)


@contextlib.contextmanager
def started(folder: Path, log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs in ``folder`` for as long as the context lasts; what it prints is added to ``log``."""
    with log.open("a") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was killed on purpose
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def server(folder: Path, url: str, *command: str) -> Iterator[None]:
    """A server that has answered at ``url``."""

    def is_up() -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(url).status == 200
        return False

    log = folder / "server.log"
    with started(folder, log, *command):
        wait_until(is_up, f"a server that is up; {log}")
        yield
