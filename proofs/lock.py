"""The committed dvc.lock on another CPU: ``dvc repro --force``, all its steps, with every stage under QEMU as Haswell.

What ``make prove-cpus`` shows of a short run, shown of the whole one and by the file that users compare. Takes more
than an hour. A stage whose Python was not started under QEMU makes it fail. Negative control: with one bit of the
file of the training's state changed, DVC writes another lock. Needs ``qemu-x86_64`` (Debian: qemu-user).
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from minitrain.base import numerics
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from proofs.project import ROOT, copy_project

CPU = "Haswell"
LOCK = "dvc.lock"
COMMANDS = "commands"  # a folder with our own ``python``
STARTED = "started.txt"  # in it: a line for every start of that ``python``


def dvc(project: Path, interpreter: list[str], *arguments: str) -> None:
    """Run DVC in a project, with ``interpreter`` as the ``python`` of its stages; UserError when it fails."""
    commands = project / COMMANDS
    commands.mkdir(exist_ok=True)
    started, python = commands / STARTED, commands / "python"
    started.touch()
    python.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "python $*" >> {shlex.quote(str(started))}\nexec {shlex.join(interpreter)} "$@"\n'
    )
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in numerics.PINNED}
    environment["PATH"] = f"{commands}:{environment['PATH']}"
    result = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, env=environment, check=False)
    if result.returncode != 0:
        raise UserError(f"dvc {' '.join(arguments)} ended with exit code {result.returncode}, see above.")


def bypassed(project: Path) -> list[str]:
    """The stages whose command never started our ``python``: DVC runs them in the user's shell, and what that reads
    at its start (BASH_ENV, for one) can set another PATH.
    """
    started = (project / COMMANDS / STARTED).read_text().splitlines()
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    return [name for name, stage in stages.items() if stage["cmd"] not in started]


def outs_of(lock: bytes) -> dict[str, str]:
    """The md5 that a dvc.lock gives of each file or folder that a stage leaves."""
    return {out["path"]: out["md5"] for stage in yaml.safe_load(lock)["stages"].values() for out in stage["outs"]}


def change_a_bit(path: Path) -> None:
    """Change the last bit of a file."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def prove(project: Path, expected: bytes, interpreter: list[str]) -> tuple[bool, bool]:
    """Whether the lock comes out as expected when the stages run with ``interpreter``; whether a changed bit shows."""
    dvc(project, interpreter, "init", "--no-scm", "--quiet")
    dvc(project, interpreter, "repro", "--force")
    if missed := bypassed(project):
        raise UserError(f"not run by {shlex.join(interpreter)}: {', '.join(missed)}. Does your shell set PATH?")
    lock = (project / LOCK).read_bytes()
    outs, expected_outs = outs_of(lock), outs_of(expected)
    different = sorted(path for path in outs.keys() | expected_outs.keys() if outs.get(path) != expected_outs.get(path))
    print(
        f"{len(outs) - len(different)} of {len(expected_outs)} outs equal{': ' if different else ''}"
        + ", ".join(different)
    )

    change_a_bit(next((project / "models").glob("*.state.safetensors")))
    dvc(project, interpreter, "commit", "--force", "--quiet", "train")
    return lock == expected, (project / LOCK).read_bytes() != lock


def main() -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        raise UserError(
            "qemu-x86_64: not found. Install it with your system's packages (Debian: apt-get install qemu-user)."
        )
    with tempfile.TemporaryDirectory() as temporary:
        project, start = copy_project(Path(temporary) / "project"), time.monotonic()
        expected = (ROOT / LOCK).read_bytes()
        equal, noticed = prove(project, expected, [emulator, "-cpu", CPU, sys.executable])
    print(
        f"{LOCK} on an emulated {CPU}: {'unchanged' if equal else 'CHANGED'}; "
        f"negative control, one changed bit: {'another lock, as it must be' if noticed else 'NOT NOTICED'}; "
        f"{time.monotonic() - start:.0f} s"
    )
    if not (equal and noticed):
        raise UserError("the proof does not hold.")


if __name__ == "__main__":
    run_command(main)
