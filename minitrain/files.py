"""Whole files only: atomic writes, digests, canonical JSON, and safetensors with a digest of our own.

This is the one module that writes. A file appears under its name complete or not at all.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.numpy

from minitrain.errors import UserError

Tensors = dict[str, np.ndarray]
Layout = Mapping[str, tuple[str, tuple[int | None, ...]]]  # dtype and shape by name; None is any length


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path``, atomically: a sibling file, fsync, rename, fsync of the folder.

    Whatever fails, and wherever the process is killed, ``path`` is the old file or the new one, whole.
    Siblings that a killed process left behind are removed. Raises UserError when the system refuses.
    """

    def write(temporary: Path) -> None:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            left = memoryview(data)
            while left:  # a write may be short: on a full disk, or when a signal comes in
                written = os.write(descriptor, left)
                if written == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                left = left[written:]
        finally:
            os.close(descriptor)

    create(path, write)


def create(path: Path, make: Callable[[Path], object]) -> None:
    """Let ``make`` write a file under another name, and rename it to ``path`` once it is whole and on the disk.

    Directly for a file that someone else's code writes, such as a database.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_strays(path.parent, path.name)
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
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some file systems cannot do that with folders
            raise
    finally:
        os.close(descriptor)


def remove_strays(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in ``folder`` of a file they were writing: of the one ``name``, or of any."""
    for stray in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp*"):  # SQLite adds "-journal"
        if not _is_running(stray.name.split(".")[-2]):
            remove(stray)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file, if there is one; UserError when the system refuses."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror}. Give access, then run again.") from error


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder``, which is made if need be; UserError when another process does. However a process ends, the
    system lets go of what it held. Where the file system has no locks, nothing is held.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder}: cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(
            f"{folder}: another run is at work here. Wait until it has ended, or end it, then run again."
        ) from error
    except OSError as error:
        print(f"note: {folder} cannot be locked ({error.strerror}): let no other run be at work here")
    try:
        yield
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with LF line ends, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON: sorted keys, two spaces, UTF-8, no NaN, one newline at the end."""
    write_text(path, canonical_json(value))


def canonical_json(value: Any) -> str:
    """The one spelling of ``value`` as JSON, so that equal values have equal digests."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write several files below ``folder``, given by name, in their order."""
    for name, data in contents.items():
        write_bytes(folder / name, data)


def encode_metrics(value: Any) -> bytes:
    """Canonical JSON with every float rounded to six significant digits, see ``rounded``."""
    return canonical_json(rounded(value)).encode()


def encode_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table with a header. Floats keep nine significant digits, which tell any two float32 apart."""
    lines = [",".join(format(cell, ".9g") if isinstance(cell, float) else str(cell) for cell in row) for row in rows]
    return ("\n".join([",".join(columns), *lines]) + "\n").encode()


def rounded(value: Any) -> Any:
    """``value`` with every float in it rounded to six significant digits.

    Metrics are sums of float64 logarithms from the C library, which may differ in the last bit between
    versions of it. What people compare need not depend on that bit.
    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def read_bytes(path: Path, expected_sha256: str | None = None) -> bytes:
    """The content of a regular file; UserError when it is missing, unreadable, something else, or of another digest."""
    with _reading(path) as file:
        data = file.read()
    if expected_sha256 is not None and sha256(data) != expected_sha256:
        raise UserError(
            f"{path}: expected the sha256 {expected_sha256}, got {sha256(data)}: the file was damaged or changed. "
            "Make it again with: dvc repro"
        )
    return data


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a regular file, each with its end; UserError as for ``read_bytes``."""
    with _reading(path) as file:
        yield from file


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open; UserError when that, or reading from it, fails."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{path}: expected a regular file, got a folder, device or pipe.")
            yield file
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if getattr(error, "errno", None) == errno.ELOOP and path.is_symlink():  # else links above it go in a circle
            raise UserError(
                f"{path}: expected a regular file, got a symbolic link. Put the file itself here."
            ) from error
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}.") from error


def read_text(path: Path, expected_sha256: str | None = None) -> str:
    """The content of a UTF-8 file; UserError names the first byte that is not UTF-8."""
    data = read_bytes(path, expected_sha256)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: expected UTF-8, got the byte 0x{data[error.start]:02x}.") from error


def decode_line(line: bytes, where: str) -> str:
    """A line of a UTF-8 file, without its end; UserError, beginning with ``where``, when it is not UTF-8."""
    try:
        return line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: expected UTF-8, got the byte 0x{line[error.start]:02x}.") from error


def read_json(path: Path, expected_sha256: str | None = None) -> Any:
    """The value in a JSON file; UserError names the line where the syntax breaks."""
    try:
        return json.loads(read_text(path, expected_sha256))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: expected JSON: {error}. Make the file again with its stage.") from error


def sha256(data: bytes) -> str:
    """Hex digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    return sha256(read_bytes(path))


def encode_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The safetensors file of some arrays, as bytes: a pure function of names, dtypes, shapes and values.

    The format has no digest and no order among several metadata keys, so the only key is ``sha256``,
    our digest of everything else.
    """
    # safetensors 0.8.0 writes wrong bytes for strided arrays. (ascontiguousarray makes a scalar 1-D.)
    whole = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in tensors.items()}
    data: bytes = safetensors.numpy.save(whole, metadata={"sha256": _digest(whole)})
    return data


def decode_tensors(data: bytes, name: str) -> Tensors:
    """The arrays in a file written by ``encode_tensors``.

    Raises UserError, naming ``name``, unless the bytes are exactly what ``encode_tensors`` would write:
    a file that is cut, grown, altered or written by something else is refused.
    """
    try:
        header_size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_size])["__metadata__"] if header_size <= len(data) else {}
        tensors: Tensors = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{name}: expected a whole safetensors file of this project, got a damaged one: {error}."
        ) from error
    if metadata != {"sha256": _digest(tensors)} or encode_tensors(tensors) != data:
        raise UserError(f"{name}: its content does not match its digest: it was altered after it was written.")
    return tensors


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors (see ``encode_tensors``), atomically."""
    write_bytes(path, encode_tensors(tensors))


def load_tensors(path: Path, expected: Layout, expected_sha256: str | None = None) -> Tensors:
    """Read arrays back. ``expected`` gives dtype and shape by name (None: any length on that axis).

    Raises UserError when the file is damaged or holds anything else than what is expected.
    """
    tensors = decode_tensors(read_bytes(path, expected_sha256), str(path))
    if set(tensors) != set(expected):
        missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
        raise UserError(
            f"{path}: tensors missing: {missing or 'none'}; unknown: {unknown or 'none'}. Is it of another config?"
        )
    for key, (dtype, shape) in expected.items():
        got = tensors[key]
        fits = len(got.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, got.shape, strict=True)
        )
        if got.dtype != dtype or not fits:
            want_text = f"{dtype}{[('any' if n is None else n) for n in shape]}"
            raise UserError(
                f"{path}: {key}: expected {want_text}, got {got.dtype}{list(got.shape)}. Is it of another config?"
            )
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            raise UserError(f"{path}: {key}: expected finite numbers, got NaN or infinity.")
    return tensors


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        assert array.size == math.prod(array.shape)
        digest.update(f"{name} {array.dtype.str} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
