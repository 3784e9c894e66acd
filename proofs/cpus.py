"""Other machines, the same bytes.

By default a short run of all stages but the gate: here as NumPy finds the machine, with the kernels of other CPUs, with
none of NumPy's SIMD, with NumPy imported first and two BLAS threads, with another NumPy 2, and under QEMU on an x86-64
without AVX and on arm64. Every file is compared, pictures too. Negative control, in the tests: with one function in
native arithmetic two kinds of kernels give other bits.

With a folder the whole pipeline on arm64, hours: the command of each stage of dvc.yaml; the dvc.lock of what they left
must be the committed one. It goes on where it was stopped, since the folder stays. Needs QEMU and ``apt-get`` (Debian:
qemu-user).
"""

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
    here, other = (sys.executable, *RUN), folder / "other-numpy"
    must_run(folder, sys.executable, "-m", "pip", "install", "-q", "-t", str(other), "--no-deps", OTHER_NUMPY)
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static") or "qemu-x86_64"
    on_arm64, of_arm64 = arm64.python(folder / "arm64")
    machines: list[tuple[str, Sequence[str], Mapping[str, str]]] = [
        *((f"{core} kernels", here, {"OPENBLAS_CORETYPE": core}) for core in KERNELS),
        ("no SIMD in NumPy", here, {"NPY_DISABLE_CPU_FEATURES": NO_SIMD}),
        ("NumPy first, two BLAS threads", (sys.executable, *NUMPY_FIRST), {"OPENBLAS_NUM_THREADS": "2"}),
        (OTHER_NUMPY, here, {"PYTHONPATH": str(other)}),
        ("x86-64 without AVX, emulated", (qemu, "-cpu", "Nehalem", *here), {}),
        ("arm64, emulated", (*on_arm64, *RUN), of_arm64),
    ]
    expected = left_by(copy_project(folder / "here", STEPS), here, {})
    for number, (name, command, environment) in enumerate(machines):
        got = left_by(copy_project(folder / str(number), STEPS), command, environment)
        compare_files(expected, name, got)


def whole_run(folder: Path) -> None:
    """Every stage in full; what they leave must give the committed dvc.lock."""
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
    print("dvc.lock: the committed one")


def lock_of(project: Path) -> bytes:
    """The dvc.lock that DVC writes for the files as they are."""
    (project / "dvc.lock").unlink(missing_ok=True)
    must_run(project, *DVC, "commit", "--force", "--quiet")
    return (project / "dvc.lock").read_bytes()


def main() -> None:
    if sys.argv[1:]:
        whole_run(Path(sys.argv[1]).resolve())
        return
    with tempfile.TemporaryDirectory() as temporary:
        short_runs(Path(temporary))


if __name__ == "__main__":
    process.run_command(main)
