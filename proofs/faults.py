"""Faults of the disk at every operation: a file is the old one or the new one, whole, and the next run is right.

A fault is injected at the 1st, 2nd, 3rd ... operation that the writer does on a file, until one run meets none:
ENOSPC, EIO and EACCES, and a short write, once and lasting. Tried on one file of each format, and on all that the
training stage writes and removes: a test holds every other writer to the same module, minitrain.base.files. Then a
disk that is really full, and then read-only (a small tmpfs). Negative controls: writers that remove the old file
first, or keep an error to themselves.
"""

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from minitrain import tracking
from minitrain.base import UserError, files, formats, process, tensors
from proofs import program
from proofs.failing_os import OPERATIONS, FailingOs, error, half
from proofs.project import SHORT, copy_project, tree
from stages import shard_to_batches, train

Files = dict[str, bytes]  # by path
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
# By name: the fault, the operations that it can meet, and what the user's error must say, if there is to be one.
FAULTS = {
    "a short write": (half, ("write",), ""),
    **{errno.errorcode[number]: (error(number), OPERATIONS, os.strerror(number)) for number in ERRORS},
}
ONE_OF_EACH = {
    "tensors.safetensors": tensors.encode_tensors({"a": np.arange(100, dtype=np.float32)}),
    "values.json": formats.json_bytes({"a": [1, 2.5, "é"]}),
    "table.csv": formats.csv_bytes(["a", "b"], [(1, 2.5)]),
}
TRAINED = ("models", "plots/train", "checkpoints")
REPLACED = ("models/evidence/kept.safetensors", "plots/train/log.csv")  # an older model is removed, as DVC does


def sweep(produce: Callable[[], object], folders: Sequence[str], old: Files) -> int:
    """Run ``produce``, which writes below some folders, with each fault at each operation in turn, each time with the
    files ``old`` there before. Check what it leaves, and what the next run does. Paths are from the current folder.

    Returns the number of faults; raises UserError when a promise does not hold.
    """
    written: Files = {}  # when nothing goes wrong; also the working files, which the stage removes at its end
    real_write = files.write_bytes

    def write_and_record(path: Path, data: bytes) -> None:
        written[path.as_posix()] = data
        real_write(path, data)

    put(folders, old)
    with mock.patch.object(files, "write_bytes", write_and_record):
        produce()
    new = tree(Path(), *folders)
    faults = 0
    for (kind, (fault, operations, reason)), lasting in itertools.product(FAULTS.items(), (False, True)):
        for at in itertools.count(1):
            put(folders, old)
            failing, failure = FailingOs(at, fault, operations, lasting), None
            with mock.patch.object(files, "os", failing):
                try:
                    produce()
                except (UserError, OSError) as raised:
                    failure = raised
            if not failing.hit:
                break
            where = f"{kind} at operation {at}{' and after' if lasting else ''}"
            # An unfinished file is left where even removing it failed; the next run takes it away.
            left = {name: data for name, data in tree(Path(), *folders).items() if not name.endswith(".tmp")}
            for name in left.keys() | old.keys():
                if left.get(name) not in (old.get(name), written.get(name)):
                    raise UserError(f"{where}: {name} is neither the old file nor the new one")
            if failure is None and left != new:
                raise UserError(f"{where}: no error, and not all files are new")
            if failure and not (isinstance(failure, UserError) and reason and reason in str(failure)):
                raise UserError(f"{where}: no error that says why but {failure!r}")
            produce()
            if tree(Path(), *folders) != new:
                raise UserError(f"{where}: the next run left something else")
            faults += 1
    return faults


def put(folders: Sequence[str], content: Files) -> None:
    """Leave nothing in the folders but ``content``."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for name, data in content.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def sweep_formats(folder: Path) -> int:
    """The writer alone: a file of each format, new, and in the place of another."""
    with contextlib.chdir(folder):
        olds: tuple[Files, ...] = ({}, {f"written/{name}": b"old" for name in ONE_OF_EACH})
        return sum(sweep(lambda: files.write_all(Path("written"), ONE_OF_EACH), ("written",), old) for old in olds)


def sweep_training(project: Path) -> int:
    """The whole training stage, in this process: what it leaves, its working checkpoints, and what it removes."""
    with (
        contextlib.chdir(project),
        contextlib.redirect_stdout(None),
        mock.patch.object(tracking, "try_to"),
        mock.patch.object(files, "exclusive_lock", contextlib.nullcontext),  # it writes nothing
    ):
        shard_to_batches.main()
        return sweep(train.main, TRAINED, dict.fromkeys(REPLACED, b"old"))


def write_after_removing(path: Path, data: bytes) -> None:
    """A writer that this proof must catch: between the two, there is no file."""
    files.remove(path)
    write_bytes(path, data)


def write_or_say_nothing(path: Path, data: bytes) -> None:
    """Another: nobody learns that it failed."""
    with contextlib.suppress(UserError):
        write_bytes(path, data)


write_bytes = files.write_bytes  # the real one
BAD_WRITERS = (write_after_removing, write_or_say_nothing)


def is_caught(writer: Callable[[Path, bytes], None], folder: Path) -> bool:
    """The negative control: whether the sweep fails with this writer."""
    with mock.patch.object(files, "write_bytes", writer):
        try:
            sweep_formats(folder)
        except UserError:
            return True
    return False


def real_disk(folder: Path) -> None:
    """Train with the checkpoints on a small tmpfs, which is full, then read-only, then has room: each time a clear
    error, at last the bytes of a training that met no fault. UserError when a promise does not hold.
    """
    project = copy_project(folder / "full", {**SHORT, "train.checkpoint_every": 2})
    run_stages(project, "", "shard_to_batches")
    whole = Path(shutil.copytree(project, folder / "whole"))
    run_stages(whole, "", "train")
    disk = project / "checkpoints"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=False).returncode != 0:
        raise UserError("a full disk cannot be tried: no tmpfs can be mounted. Run this as root, or in: unshare -rm")
    try:
        for options, reason in (("size=3m", "No space left"), ("ro", "Read-only file system"), ("rw,size=64m", "")):
            # Its other options are left out: within ``unshare -rm`` its owner has no name.
            command = ["mount", "--options-mode", "ignore", "-o", f"remount,{options}", "tmpfs", str(disk)]
            subprocess.run(command, check=True)
            run_stages(project, reason, "train")
    finally:
        subprocess.run(["umount", disk], check=True)
    if tree(project, "models", "plots") != tree(whole, "models", "plots"):
        raise UserError("after a full disk: other files")


def run_stages(project: Path, reason: str, *stages: str) -> None:
    """Run stages in a process of their own, which must fail in one line for this reason, or must not fail if ""."""
    command = [sys.executable, "-c", program(*stages)]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if result.returncode != bool(reason) or reason not in result.stderr or "Traceback" in result.stderr:
        raise UserError(f"{stages}: expected {reason or 'no error'!r}, got:\n{result.stdout}{result.stderr}")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if missed := [writer.__name__ for writer in BAD_WRITERS if not is_caught(writer, folder)]:
            raise UserError(f"the proof does not hold: not caught: {', '.join(missed)}")
        print(f"negative controls: caught: {', '.join(writer.__name__ for writer in BAD_WRITERS)}")
        print(f"a file of each format: {sweep_formats(folder)} faults", flush=True)
        tiny = {**SHORT, "train.steps": 2, "train.eval_every": 2, "train.checkpoint_every": 1, "train.batch_size": 4}
        print(f"the training stage: {sweep_training(copy_project(folder / 'tiny', tiny))} faults", flush=True)
        real_disk(folder)
        print("a full disk, a read-only one: a clear error, nothing lost, and with room again the same bytes")
    print("after each fault: old file or new one, whole; a clear error; the next run right")


if __name__ == "__main__":
    process.run_command(main)
