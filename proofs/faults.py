"""Faults of the disk at every operation: the target is the old file or the new one, whole, and the next run is right.

A fault is injected at the 1st, 2nd, 3rd ... operation that the writer does on a file, until one run meets none:
ENOSPC, EIO and EACCES, and a short write, once and lasting. Then a full disk (a small tmpfs, where mounting is allowed)
and a read-only folder, for real.
"""

import argparse
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minitrain import files
from minitrain.errors import UserError, run_command
from proofs.project import SHORT, copy_project, tree

OPERATIONS = ("open", "write", "fsync", "close", "replace", "unlink")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SHORT_WRITE = -1  # no error: half of the bytes get out


class FaultyOs:
    """Stands in for the module ``os`` in minitrain.files; its Nth operation fails, and if ``lasting`` all after it."""

    def __init__(self, at: int, fault: int, lasting: bool) -> None:
        self.left, self.fault, self.lasting, self.hit = at, fault, lasting, False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._faulty(name, real) if name in OPERATIONS else real

    def _faulty(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            if name == "open" and not args[1] & os.O_WRONLY and not _is_the_writers(Path(args[0])):
                return real(*args)  # reading
            self.left -= 1
            if self.left != 0 and not (self.left < 0 and self.lasting):
                return real(*args)
            self.hit = True
            if self.fault == SHORT_WRITE:
                return real(args[0], args[1][: max(1, len(args[1]) // 2)]) if name == "write" else real(*args)
            if name == "close":
                real(*args)  # the descriptor is gone even when close reports an error
            raise OSError(self.fault, os.strerror(self.fault))

        return operation


def _is_the_writers(path: Path) -> bool:
    """What the writer opens for reading too: a file it has just written, and its folder, for fsync."""
    return path.is_dir() or path.suffix == ".tmp"


@contextlib.contextmanager
def faulty(at: int, fault: int, lasting: bool) -> Iterator[FaultyOs]:
    """Inject the fault into the writer."""
    stand_in = FaultyOs(at, fault, lasting)
    real, vars(files)["os"] = os, stand_in
    try:
        yield stand_in
    finally:
        vars(files)["os"] = real


def sweep(
    produce: Callable[[], object],
    root: Path,
    folders: tuple[str, ...],
    reset: Callable[[], None],
    kinds: tuple[int, ...] = (*ERRORS, SHORT_WRITE),
) -> int:
    """Run ``produce`` with a fault at each operation in turn and check what it leaves below ``folders`` of ``root``.

    ``reset`` brings back the old state, the content of which counts as well as that of an undisturbed run.
    Returns the number of faults. Raises UserError when a promise does not hold.
    """
    reset()
    old = tree(root, *folders)
    produce()
    new = tree(root, *folders)
    faults = 0
    for fault in kinds:
        for lasting in (False, True):
            at = 1
            while True:
                reset()
                with faulty(at, fault, lasting) as injected:
                    failure: BaseException | None = None
                    try:
                        produce()
                    except UserError:
                        failure = None
                    except OSError as error:
                        failure = error
                if not injected.hit:
                    break
                where = (
                    f"{errno.errorcode.get(fault, 'short write')} at operation {at}{' and after' if lasting else ''}"
                )
                if failure is not None:
                    raise UserError(f"{where}: no clear error but {failure!r}")
                for name, data in tree(root, *folders).items():
                    if name.endswith(".tmp"):  # a stray, where even removing it failed
                        continue
                    if name not in old and name not in new:
                        files.decode_tensors(data, f"{where}: {name}")  # an earlier working checkpoint: whole as well
                    elif data not in (old.get(name), new.get(name)):
                        raise UserError(f"{where}: {name} is neither the old file nor the new one")
                produce()
                if tree(root, *folders) != new:
                    raise UserError(f"{where}: the next run left something else: {sorted(tree(root, *folders))}")
                faults, at = faults + 1, at + 1
    return faults


def sweep_one_file(folder: Path) -> int:
    """The writer alone: a new file, and one that replaces another."""
    path = folder / "one" / "file"

    def absent() -> None:
        shutil.rmtree(folder / "one", ignore_errors=True)
        (folder / "one").mkdir()

    def present() -> None:
        absent()
        path.write_bytes(b"old")

    return sum(
        sweep(lambda: files.write_bytes(path, b"new" * 1000), folder, ("one",), reset) for reset in (absent, present)
    )


def sweep_stage(project: Path, stage: str, folders: tuple[str, ...], kinds: tuple[int, ...]) -> int:
    """Everything that a stage writes. The stages run in this process, in the project's folder."""
    import importlib

    produce = importlib.import_module(f"stages.{stage}").produce

    def reset() -> None:
        for name in folders:
            shutil.rmtree(project / name, ignore_errors=True)

    with contextlib.chdir(project), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return sweep(produce, project, folders, reset, kinds)


def full_disk(folder: Path) -> str:
    """Train on a tmpfs that fills up; then make room and go on."""
    if os.geteuid() != 0:
        return "skipped: mounting a tmpfs needs root"
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        return "skipped: no tmpfs can be mounted here"
    try:
        project = copy_project(folder / "full", {**SHORT, "train.checkpoint_every": 2})
        run_stage(project, "shard_to_batches", expected=0)
        (project / "checkpoints").symlink_to(disk)
        message = run_stage(project, "train", expected=1)
        if "No space left on device" not in message or "Traceback" in message:
            raise UserError(f"a full disk: expected a clear error, got:\n{message}")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        run_stage(project, "train", expected=0)
        whole = copy_project(folder / "whole", {**SHORT, "train.checkpoint_every": 2})
        for stage in ("shard_to_batches", "train"):
            run_stage(whole, stage, expected=0)
        if tree(project, "models", "plots") != tree(whole, "models", "plots"):
            raise UserError("after a full disk: other files")
    finally:
        subprocess.run(["umount", disk], check=False)
    return "clear error, nothing lost, and with room again the same bytes"


def read_only_folder(folder: Path) -> str:
    """Write where nothing may be written. (Root may write anywhere, so a file stands in the folder's place.)"""
    project = copy_project(folder / "read-only", SHORT)
    (project / "data" / "batches").write_text("in the way")
    message = run_stage(project, "shard_to_batches", expected=1)
    if "data/batches" not in message or "Traceback" in message:
        raise UserError(f"a folder that cannot be written: expected a clear error, got:\n{message}")
    return "clear error"


def run_stage(project: Path, stage: str, expected: int) -> str:
    """Run a stage's ``produce`` in a process of its own; what it printed."""
    code = f"from minitrain.errors import run_command; from stages import {stage}; run_command({stage}.produce)"
    result = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    if result.returncode != expected:
        raise UserError(
            f"{stage}: expected exit code {expected}, got {result.returncode}:\n{result.stdout}{result.stderr}"
        )
    return result.stderr


def main() -> None:
    argparse.ArgumentParser(prog="python -m proofs.faults", description=__doc__).parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"one file: {sweep_one_file(folder)} faults", flush=True)
        tiny = {**SHORT, "train.steps": 2, "train.eval_every": 2, "train.checkpoint_every": 1, "train.batch_size": 4}
        project = copy_project(folder / "project", tiny)
        shards = sweep_stage(project, "shard_to_batches", ("data/batches", "plots"), (*ERRORS, SHORT_WRITE))
        print(f"shard-to-batches: {shards} faults", flush=True)
        run_stage(project, "shard_to_batches", expected=0)
        # The same writer, and ten times slower: two kinds of fault are enough to see every operation fail.
        training = sweep_stage(project, "train", ("models", "plots/train", "checkpoints"), (errno.ENOSPC, SHORT_WRITE))
        print(f"train: {training} faults", flush=True)
        print(f"full disk: {full_disk(folder)}", flush=True)
        print(f"a folder that cannot be written: {read_only_folder(folder)}")
    print(
        "after each fault: old file or new one, whole; a clear error; the next run right. "
        f"{time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    run_command(main)
