"""Faults of the disk at every operation: a file is the old one or the new one, whole, and the next run is right.

A fault is injected at the 1st, 2nd, 3rd ... operation that the writer does on a file, until one run meets none:
ENOSPC, EIO and EACCES, and a short write, once and lasting. Tried on one file of each format, and on all that the
training stage writes and removes: a test holds every other writer to the same module, minitrain.base.files. Negative
controls, in the tests: writers that remove the old file first, or keep an error to themselves.
"""

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from minitrain import tracking
from minitrain.base import UserError, files, formats, process, tensors
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


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"a file of each format: {sweep_formats(folder)} faults", flush=True)
        tiny = {**SHORT, "train.steps": 2, "train.eval_every": 2, "train.checkpoint_every": 1, "train.batch_size": 4}
        print(f"the training stage: {sweep_training(copy_project(folder / 'tiny', tiny))} faults", flush=True)
    print("after each fault: old file or new one, whole; a clear error; the next run right")


if __name__ == "__main__":
    process.run_command(main)
