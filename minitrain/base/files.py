"""Read whole files, write whole files. This is the one module that writes: a file appears complete or not at all."""

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from minitrain.base.errors import UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path``, atomically: a sibling file, fsync, rename, fsync of the folder.

    Whatever fails, and wherever the process is killed, ``path`` is the old file or the new one, whole.
    Siblings that a killed process left behind are removed. Raises UserError when the system refuses.
    """

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(data)
            while rest:  # a write may be short: on a full disk, or when a signal comes in
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)

    create(path, write)


def create(path: Path, make: Callable[[Path], object]) -> None:
    """Let ``make`` write a file under another name, and rename it to ``path`` once it is whole and on the disk.

    Called directly for a file that someone else's code writes, such as a database.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, glob.escape(path.name))
        make(temporary)
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)  # the rename itself
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}. Make room or give access, then run again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _fsync(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write several files below ``folder``, given by name, in their order."""
    for name, data in contents.items():
        write_bytes(folder / name, data)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what a process left in ``folder`` that died while it was writing the file ``name``, or any."""
    for temporary in folder.glob(f".{name}.tmp*"):  # SQLite adds "-journal"
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file, if there is one; UserError when the system refuses."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}. Give access, then run again.") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it, as far as the system lets us."""
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def exclusive_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Lock ``folder``, which is made if need be; while another process holds the lock, UserError, or wait. However a
    process ends, the system releases its locks. Who holds the lock may remove the folder as the last thing that it
    does, where nobody waits.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder.resolve()}: another run is at work here. Wait until it has ended, or end it, then run again."
            ) from error
        except OSError as error:
            raise UserError(f"{folder}: cannot be locked: {error.strerror}. Use a folder on another disk.") from error
        yield


def read_bytes(path: Path, expected_sha256: str | None = None) -> bytes:
    """The content of a regular file; UserError when it is missing, unreadable, something else, or of another digest."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UserError(f"{path}: expected a regular file, got a link, folder, device or pipe.")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(
            f"{path}: cannot be read: {getattr(error, 'strerror', error)}. Run this in the project's root; what a "
            "stage leaves is made by: dvc repro"
        ) from error
    if expected_sha256 is not None and sha256(data) != expected_sha256:
        raise UserError(
            f"{path}: expected the sha256 {expected_sha256[:12]}..., got {sha256(data)[:12]}...: the file was damaged "
            "or changed. Get it back with: dvc checkout; or make it again: dvc repro --force"
        )
    return data


def read_text(path: Path, expected_sha256: str | None = None) -> str:
    """The content of a UTF-8 file; UserError names the line of the first byte that is not UTF-8."""
    data = read_bytes(path, expected_sha256)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: expected UTF-8, got the byte 0x{data[error.start]:02x}.") from error


def sha256(data: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    return sha256(read_bytes(path))
