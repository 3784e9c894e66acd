"""Other machines, the same bytes.

By default a short run of all stages but the gate: here as NumPy finds the machine, with the kernels of other CPUs, with
none of NumPy's SIMD, with NumPy imported first and two BLAS threads, with another NumPy 2, and under QEMU on an x86-64
without AVX and on arm64. Every file is compared, pictures too. Negative control: with native arithmetic two kinds of
kernels give other losses.

With ``--all`` the whole pipeline on arm64, hours: the command of each stage of dvc.yaml; the dvc.lock of what they left
must be the committed one. Negative control: with one bit of a file changed it is another. It goes on where it was
stopped, since the folder stays. Needs QEMU and ``apt-get`` (Debian: qemu-user).
"""

import argparse
import functools
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from minitrain.base import UserError, layout, process
from proofs import arm64, program
from proofs.project import DVC, ROOT, SHORT, copy_project, different, must_run, tree

STEPS = {**SHORT, "train.steps": 8, "train.eval_every": 4, "train.checkpoint_every": 5, "train.warmup_steps": 3}
STAGES = [stage.replace("-", "_") for stage in layout.STAGES]
RUN = ("-c", program(*STAGES))
NUMPY_FIRST = ("-c", "import numpy\n" + program(*STAGES))
NO_SIMD = "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"
KERNELS = ("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen")  # of OpenBLAS: any x86-64 with AVX2 can run them
OTHER_NUMPY = "numpy==2.3.5"
LOSSES = "plots/train/log.csv"


def left_by(project: Path, command: Sequence[str], environment: Mapping[str, str]) -> dict[str, bytes]:
    """Run a command in a project; every file that its stages left."""
    must_run(project, *command, **environment)
    return tree(project, "data/batches", "models", "plots")


def compare_files(expected: dict[str, bytes], name: str, got: dict[str, bytes]) -> None:
    """Say how many files of two runs are equal; UserError when one is not."""
    if wrong := different(expected, got):
        raise UserError(f"{name}: the proof does not hold: different: {', '.join(wrong)}")
    print(f"{name}: {len(got)} of {len(expected)} files equal", flush=True)


def short_runs(folder: Path) -> None:
    """A short run on each kind of machine."""

    def run(
        name: str, python: Sequence[str] = (sys.executable,), code: Sequence[str] = RUN, **env: str
    ) -> dict[str, bytes]:
        return left_by(copy_project(folder / name.replace(" ", "-"), STEPS), [*python, *code], env)

    compare = functools.partial(compare_files, run("here"))
    for core in KERNELS:
        compare(f"{core} kernels", run(core, OPENBLAS_CORETYPE=core))
    compare("no SIMD in NumPy", run("no SIMD", NPY_DISABLE_CPU_FEATURES=NO_SIMD))
    compare("NumPy first, two BLAS threads", run("first", code=NUMPY_FIRST, OPENBLAS_NUM_THREADS="2"))
    other = folder / "other-numpy"
    must_run(folder, sys.executable, "-m", "pip", "install", "-q", "-t", str(other), "--no-deps", OTHER_NUMPY)
    compare(OTHER_NUMPY, run("other", PYTHONPATH=str(other)))

    one, another = (native_losses(folder / f"native-{core}", core) for core in (KERNELS[0], KERNELS[3]))
    if one == another:
        raise UserError(f"negative control: {KERNELS[0]} and {KERNELS[3]} kernels give the same losses in native")
    print("negative control: in native arithmetic two of these kernels give other losses; next QEMU", flush=True)

    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static") or "qemu-x86_64"
    compare("x86-64 without AVX, emulated", run("no AVX", [qemu, "-cpu", "Nehalem", sys.executable]))
    python, environment = arm64.python(folder / "arm64")
    compare("arm64, emulated", run("on arm64", python, **environment))


def native_losses(project: Path, core: str) -> bytes:
    """The log of a short training with native arithmetic and the kernels of one kind of CPU."""
    copy_project(project, {**STEPS, "model.arithmetic": "native"})
    return left_by(project, [sys.executable, "-c", program(*STAGES[:2])], {"OPENBLAS_CORETYPE": core})[LOSSES]


def whole_run(folder: Path) -> None:
    """Every stage in full; what they leave must give the committed dvc.lock, and with one bit changed another."""
    project, expected = folder / "project", (ROOT / "dvc.lock").read_bytes()
    if not project.exists():
        copy_project(project)
    python, environment = arm64.python(folder / "arm64")
    for stage in STAGES:
        must_run(project, *python, "-c", program(stage), **environment)
        print(stage, flush=True)
    must_run(project, sys.executable, "-m", "stages.verify")
    must_run(project, *DVC, "init", "--no-scm", "--quiet")
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
    must_run(project, *DVC, "commit", "--force", "--quiet")
    return (project / "dvc.lock").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.cpus")
    parser.add_argument("--all", metavar="FOLDER", type=Path, help="the whole pipeline on arm64, in this folder")
    folder = parser.parse_args().all
    if folder:
        whole_run(folder.resolve())
        return
    with tempfile.TemporaryDirectory() as temporary:
        short_runs(Path(temporary))


if __name__ == "__main__":
    process.run_command(main)
