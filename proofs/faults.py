"""Faults of the disk at every operation: the target is the old file or the new one, whole, and the next run is right.

A fault is injected at the 1st, 2nd, 3rd ... operation that the writer does on a file, until one run meets none:
ENOSPC, EIO and EACCES, and a short write, once and lasting. Then a full disk and a read-only folder, for real (a small
tmpfs). Negative controls: writers that write in place, remove the old file first, or keep an error to themselves.
"""

import argparse
import contextlib
import errno
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from minitrain import tracking
from minitrain.base import files, formats, layout, tensors
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.evaluation import baselines, drift, roundtrip
from minitrain.gate import checks
from proofs import program
from proofs.project import SHORT, copy_project, tree

OPERATIONS = ("open", "write", "fsync", "close", "replace", "unlink")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
SHORT_WRITE = -1  # no error: half of the bytes get out
EVALUATING = {"checkpoint_roundtrip_verify": roundtrip, "fp16_drift": drift, "baseline_compare": baselines}


class FaultyOs:
    """Stands in for the module ``os`` in base.files; its Nth operation fails, and if ``lasting`` all after it."""

    def __init__(self, at: int, fault: int, lasting: bool) -> None:
        self.left, self.fault, self.lasting, self.hit = at, fault, lasting, False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._faulty(name, real) if name in OPERATIONS else real

    def _faulty(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            if name == "open" and not args[1] & os.O_WRONLY and not _is_the_writers(Path(args[0])):
                return real(*args)  # reading
            if self.fault == SHORT_WRITE and (name != "write" or len(args[1]) < 2):
                return real(*args)  # only a write of more than one byte can be short
            self.left -= 1
            if self.left != 0 and not (self.left < 0 and self.lasting):
                return real(*args)
            self.hit = True
            if self.fault == SHORT_WRITE:
                return real(args[0], args[1][: len(args[1]) // 2])
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


def sweep(produce: Callable[[], object], root: Path, folders: tuple[str, ...], old: dict[str, bytes]) -> int:
    """Run ``produce`` with a fault at each operation in turn, each time with the files ``old`` there before, and check
    what it leaves below ``folders`` of ``root``.

    A file that it writes must be the old one or the new one, and may be missing only if there was no old one. Without
    an error, all must be new. The next run must be right. Returns the number of faults. Raises UserError when a promise
    does not hold.
    """

    def reset() -> None:
        for name in folders:
            shutil.rmtree(root / name, ignore_errors=True)
        for name, data in old.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)

    reset()
    produce()
    new = tree(root, *folders)
    faults = 0
    for fault in (*ERRORS, SHORT_WRITE):
        for lasting in (False, True):
            at = 1
            while True:
                reset()
                failure: Exception | None = None
                with faulty(at, fault, lasting) as injected:
                    try:
                        produce()
                    except (UserError, OSError) as error:
                        failure = error
                if not injected.hit:
                    break
                where = (
                    f"{errno.errorcode.get(fault, 'short write')} at operation {at}{' and after' if lasting else ''}"
                )
                # An unfinished file is left where even removing it failed; the next run takes it away.
                left = {name: data for name, data in tree(root, *folders).items() if not name.endswith(".tmp")}
                for name in left.keys() | new.keys():
                    if name in old or name in new:
                        if left.get(name) not in (old.get(name), new.get(name)):
                            raise UserError(f"{where}: {name} is neither the old file nor the new one")
                    elif name.endswith(".json"):  # working files, which the stage removes at its end: whole too
                        formats.read_json(root / name)
                    else:
                        tensors.decode_tensors(left[name], f"{where}: {name}")
                if failure is None and left != new:
                    raise UserError(f"{where}: no error, and not all files are new")
                if failure is not None and not (
                    isinstance(failure, UserError) and fault > 0 and os.strerror(fault) in str(failure)
                ):
                    raise UserError(f"{where}: no clear error but {failure!r}")
                produce()
                if tree(root, *folders) != new:
                    raise UserError(f"{where}: the next run left something else: {sorted(tree(root, *folders))}")
                faults, at = faults + 1, at + 1
    return faults


def sweep_one_file(folder: Path) -> int:
    """The writer alone: a new file, and one that replaces another."""
    return sum(
        sweep(lambda: files.write_bytes(folder / "one" / "file", b"new" * 1000), folder, ("one",), old)
        for old in ({}, {"one/file": b"old"})
    )


def write_in_place(path: Path, data: bytes) -> None:
    """A writer that this proof must catch, in the place of files.write_bytes."""
    faulty_os = vars(files)["os"]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = faulty_os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        faulty_os.write(descriptor, data[:10])
        faulty_os.write(descriptor, data[10:])
        faulty_os.close(descriptor)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def write_after_removing(path: Path, data: bytes) -> None:
    """Another: between the two, there is no file."""
    path.unlink(missing_ok=True)
    write_bytes(path, data)


def write_or_say_nothing(path: Path, data: bytes) -> None:
    """Another: nobody learns that it failed."""
    with contextlib.suppress(UserError):
        write_bytes(path, data)


write_bytes = files.write_bytes  # the real one
BAD_WRITERS = (write_in_place, write_after_removing, write_or_say_nothing)


def is_caught(writer: Callable[[Path, bytes], None], folder: Path) -> bool:
    """The negative control: whether the sweep fails with this writer."""
    with mock.patch.object(files, "write_bytes", writer):
        try:
            sweep_one_file(folder)
        except UserError:
            return True
    return False


def sweep_stage(project: Path, stage: str, *folders: str) -> int:
    """Everything that a stage writes, with another file under each name before. The stages run in this process, in the
    project's folder; what those that evaluate measure and draw is made once, for it is the writing that is tried. For
    the same reason the gate checks nothing; and its report, which is for people, is written below plots, to be swept.
    """
    module = importlib.import_module(f"stages.{stage}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(project))
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(mock.patch.object(tracking, "log_or_say_why_not", return_value=""))
        stack.enter_context(mock.patch.object(files, "exclusive_lock", contextlib.nullcontext))  # it writes nothing
        if stage in EVALUATING:
            measuring = EVALUATING[stage]
            for name in {"measure", "plots", "training_picture"} & vars(measuring).keys():
                stack.enter_context(mock.patch.object(measuring, name, once(getattr(measuring, name))))
        if stage == "verify":
            stack.enter_context(mock.patch.dict(checks.CHECKS, {"none": lambda run: ("", "", True)}, clear=True))
            stack.enter_context(mock.patch.object(layout, "REPORT", layout.PLOTS / "verify" / layout.REPORT))
        module.main()
        # Another model the stage removes itself, as DVC does; a checkpoint that is none would be removed as damaged.
        old = {
            name: b"old" for name in tree(project, *folders) if not name.startswith(("models/minigpt-", "checkpoints/"))
        }
        return sweep(module.main, project, folders, old)


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but it is called only the first time; later calls get the same result, whatever they ask."""
    results: list[Any] = []

    def call(*args: Any) -> Any:
        if not results:
            results.append(function(*args))
        return results[0]

    return call


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A tmpfs mounted at a new folder; False where that is not allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def remount(folder: Path, option: str) -> None:
    """Change an option of a small disk. (The others are left out: within ``unshare -rm`` its owner has no name.)"""
    command = ["mount", "--options-mode", "ignore", "-o", f"remount,{option}", "tmpfs", str(folder)]
    subprocess.run(command, check=True)


def full_disk(folder: Path) -> str:
    """Train on a tmpfs that fills up; then make room and go on."""
    settings = {**SHORT, "train.checkpoint_every": 2}
    project, whole = copy_project(folder / "full", settings), copy_project(folder / "whole", settings)
    with small_disk(project / "checkpoints", "3m") as mounted:
        if not mounted:
            raise UserError(
                "a full disk cannot be tried: no tmpfs can be mounted. Run this as root, or in: unshare -rm"
            )
        run_stage(project, "shard_to_batches", expected=0)
        message = run_stage(project, "train", expected=1)
        if "No space left on device" not in message or "Traceback" in message:
            raise UserError(f"a full disk: expected a clear error, got:\n{message}")
        remount(project / "checkpoints", "size=64m")
        run_stage(project, "train", expected=0)
        for stage in ("shard_to_batches", "train"):
            run_stage(whole, stage, expected=0)
        if tree(project, "models", "plots") != tree(whole, "models", "plots"):
            raise UserError("after a full disk: other files")
    return "clear error, nothing lost, and with room again the same bytes"


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nothing can be written into ``folder``. (Root may write anywhere but on a disk that is mounted so; where it may
    mount none, a file stands in the folder's place.)
    """
    with small_disk(folder, "3m") as mounted:
        if mounted:
            remount(folder, "ro")
        elif os.geteuid() != 0:
            folder.chmod(0o555)
        else:
            folder.rmdir()
            folder.touch()
        yield
    if not mounted:
        folder.chmod(0o755)
    if folder.is_file():
        folder.unlink()


def read_only_folder(folder: Path) -> str:
    """Write where nothing may be written; then allow it and run again."""
    project, whole = copy_project(folder / "read-only", SHORT), copy_project(folder / "writable", SHORT)
    with unwritable(project / "data" / "batches"):
        message = run_stage(project, "shard_to_batches", expected=1)
    if "data/batches" not in message or "Traceback" in message:
        raise UserError(f"a read-only folder: expected a clear error, got:\n{message}")
    for place in (project, whole):
        run_stage(place, "shard_to_batches", expected=0)
    if tree(project, "data/batches") != tree(whole, "data/batches"):
        raise UserError("after a read-only folder: other files")
    return "clear error, and with access again the same bytes"


def run_stage(project: Path, stage: str, expected: int) -> str:
    """Run a stage in a process of its own; what it printed."""
    command = [sys.executable, "-c", program(stage)]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
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
        missed = [writer.__name__ for writer in BAD_WRITERS if not is_caught(writer, folder)]
        names = ", ".join(writer.__name__ for writer in BAD_WRITERS)
        print(f"negative controls: {len(BAD_WRITERS) - len(missed)} of {len(BAD_WRITERS)} writers caught ({names})")
        print(f"one file: {sweep_one_file(folder)} faults", flush=True)
        tiny = {**SHORT, "train.steps": 2, "train.eval_every": 2, "train.checkpoint_every": 1, "train.batch_size": 4}
        project = copy_project(folder / "project", tiny)
        for stage, folders in {
            "shard_to_batches": ("data/batches", "plots/shard-to-batches"),
            "train": ("models", "plots/train", "checkpoints"),
            "checkpoint_roundtrip_verify": ("plots/checkpoint-roundtrip-verify",),
            "fp16_drift": ("plots/fp16-drift",),
            "baseline_compare": ("plots/baseline-compare", "plots/train"),
            "verify": ("plots/verify",),
        }.items():
            print(f"{stage}: {sweep_stage(project, stage, *folders)} faults", flush=True)
        print(f"full disk: {full_disk(folder)}", flush=True)
        print(f"a read-only folder: {read_only_folder(folder)}")
    print(
        "after each fault: old file or new one, whole; a clear error; the next run right. "
        f"{time.monotonic() - start:.0f} s"
    )
    if missed:
        raise UserError(f"the proof does not hold: not caught: {', '.join(missed)}")


if __name__ == "__main__":
    run_command(main)
