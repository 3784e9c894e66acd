"""Other CPUs, the same bytes.

By default a short run: here, here with the environment asking for other kernels, and under QEMU as Haswell, EPYC and
Skylake; every file compared. Negative control: without the pin, two kinds of kernels give other numbers.

With ``--all`` the whole pipeline, more than an hour: the command of each stage of dvc.yaml under QEMU as a Haswell; the
dvc.lock of what they left must be the committed one. Negative control: with one bit of a file changed it is another.
Needs ``qemu-x86_64`` (Debian: qemu-user).
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from minitrain.base import UserError, numerics, process
from proofs import program
from proofs.project import ROOT, SHORT, copy_project, tree

CPUS = ("Haswell", "EPYC", "Skylake-Client")
KERNELS = ("Haswell", "Sandybridge")  # of OpenBLAS, by their cores; any machine with AVX2 can run both
STEPS = {**SHORT, "train.steps": 8, "train.eval_every": 4, "train.checkpoint_every": 5, "train.warmup_steps": 3}
RUN = program("shard_to_batches", "train", "checkpoint_roundtrip_verify", "fp16_drift", "baseline_compare")
# The pin leaves a machine alone on which bits are not promised.
WITHOUT_PIN = f"""
import platform
platform.machine = lambda: "another"
{program("shard_to_batches", "train")}"""
LOSSES = "plots/train/log.csv"


def left_by(project: Path, emulator: Sequence[str], *arguments: str, **environment: str) -> dict[str, bytes]:
    """Run Python in a project, on an emulated CPU or, without an emulator, on this one; every file that is left."""
    unpinned = {name: value for name, value in os.environ.items() if name not in numerics.PINNED}
    command, environment = [*emulator, sys.executable, *arguments], {**unpinned, **environment}
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UserError(f"{' '.join(command):.200} failed:\n{result.stdout}{result.stderr}")
    return tree(project, "data/batches", "models", "plots")


def compare(name: str, expected: dict[str, bytes], got: dict[str, bytes]) -> None:
    """Say how many files of two runs are equal; UserError when one is not."""
    different = sorted(path for path in expected.keys() | got.keys() if expected.get(path) != got.get(path))
    if different:
        raise UserError(f"{name}: the proof does not hold: different: {', '.join(different)}")
    print(f"{name}: {len(got)} of {len(expected)} files equal", flush=True)


def short_runs(folder: Path, qemu: str) -> None:
    """A short run on each CPU and with each kind of kernels."""

    def run(name: str, code: str = RUN, emulator: Sequence[str] = (), **environment: str) -> dict[str, bytes]:
        return left_by(copy_project(folder / name, STEPS), emulator, "-c", code, **environment)

    here = run("here")
    for core in KERNELS:
        compare(f"{core} kernels asked for", here, run(core, OPENBLAS_CORETYPE=core))
    one, other = (run(f"{core}-without-pin", WITHOUT_PIN, OPENBLAS_CORETYPE=core)[LOSSES] for core in KERNELS)
    if one == other:
        raise UserError(f"negative control: {' and '.join(KERNELS)} kernels give the same losses without the pin")
    print("negative control: without the pin these kernels give other losses; next QEMU, some minutes", flush=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        emulated = pool.map(lambda cpu: run(f"{cpu}-emulated", emulator=(qemu, "-cpu", cpu)), CPUS)
        for cpu, got in zip(CPUS, emulated, strict=True):
            compare(f"{cpu}, emulated", here, got)


def whole_run(project: Path, emulator: list[str], expected: bytes) -> None:
    """Every stage in full; what they leave must give the expected dvc.lock, and with one bit changed another."""
    for stage in yaml.safe_load((project / "dvc.yaml").read_text())["stages"].values():
        left_by(project, emulator, *stage["cmd"].split()[1:])  # "python -m ..."
        print(stage["cmd"], flush=True)
    left_by(project, [], "-m", "dvc", "init", "--no-scm", "--quiet")
    if lock_of(project) != expected:
        raise UserError("dvc.lock: the proof does not hold: another than the committed one")
    (state,) = (project / "models").glob("*.state.safetensors")
    data = state.read_bytes()
    state.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if lock_of(project) == expected:
        raise UserError("negative control: a changed bit gives the same dvc.lock")
    print("dvc.lock: the committed one; negative control: with one bit changed another")


def lock_of(project: Path) -> bytes:
    """The dvc.lock that DVC writes for the files as they are."""
    (project / "dvc.lock").unlink(missing_ok=True)
    left_by(project, [], "-m", "dvc", "commit", "--force", "--quiet")
    return (project / "dvc.lock").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.cpus")
    parser.add_argument("--all", action="store_true", help="the whole pipeline on one other CPU")
    arguments = parser.parse_args()
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        raise UserError("qemu-x86_64: not found. Install it: apt-get install qemu-user, or your system's package")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.all:
            whole_run(copy_project(Path(folder) / "project"), [qemu, "-cpu", CPUS[0]], (ROOT / "dvc.lock").read_bytes())
        else:
            short_runs(Path(folder), qemu)


if __name__ == "__main__":
    process.run_command(main)
