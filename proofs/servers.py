"""Real servers on loopback, for as long as a proof needs them."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from minitrain.base import UserError

SECONDS = 120  # to wait for a server to start


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


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
    log, end = folder / "server.log", time.monotonic() + SECONDS
    with started(folder, log, *command):
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url).close()
                break
            if time.monotonic() > end:
                raise UserError(f"expected within {SECONDS} seconds: a server that is up; {log}")
            time.sleep(0.5)
        yield
