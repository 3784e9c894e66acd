"""Other CPUs, the same bytes: a short run here and under QEMU as Haswell, EPYC and Skylake, compared file by file.

Negative control: with the pin taken out and OpenBLAS told to use another core's kernels, the bytes differ.
Needs ``qemu-x86_64`` (Debian: qemu-user).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minitrain.base import numerics
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from proofs import program
from proofs.project import SHORT, copy_project, tree

CPUS = ("Haswell", "EPYC", "Skylake-Client")
STEPS = {**SHORT, "train.steps": 8, "train.eval_every": 4, "train.checkpoint_every": 5, "train.warmup_steps": 3}
CORES_UNPINNED = ("Haswell", "Sandybridge")  # kernels that any machine with AVX2 can run

RUN = program("shard_to_batches", "train", "checkpoint_roundtrip_verify", "fp16_drift", "baseline_compare")
# Without the pin: a stand-in for minitrain.base.numerics whose pin() does nothing.
UNPINNED = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("minitrain.base.numerics", "minitrain/base/numerics.py")
numerics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(numerics)
numerics.pin = lambda: None
sys.modules["minitrain.base.numerics"] = numerics
{program("shard_to_batches", "train")}"""


def run(project: Path, code: str, emulator: list[str], environment: dict[str, str]) -> dict[str, str]:
    """Run ``code`` in a project; the sha256 of every file it leaves, by path."""
    pinned_away = {name: value for name, value in os.environ.items() if name not in numerics.PINNED}
    result = subprocess.run(
        [*emulator, sys.executable, "-c", code],
        cwd=project,
        env={**pinned_away, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise UserError(f"the run under {' '.join(emulator) or 'this machine'} failed:\n{result.stdout}{result.stderr}")
    files = tree(project, "data/batches", "models", "plots")
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def compare(name: str, expected: dict[str, str], got: dict[str, str]) -> bool:
    """Print how two runs compare; True when every file is the same."""
    different = sorted(path for path in expected.keys() | got.keys() if expected.get(path) != got.get(path))
    print(
        f"{name}: {len(got) - len(different)} of {len(expected)} files "
        f"equal{': ' + ', '.join(different) if different else ''}"
    )
    return not different


def models_differ(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two runs left a model each, and no file of the one is a file of the other."""
    models = [
        {
            (name, digest)
            for name, digest in run.items()
            if name.startswith("models/minigpt-") and "manifest" not in name
        }
        for run in (one, other)
    ]
    return all(models) and not models[0] & models[1]


def main() -> None:
    if not numerics.machine_is_supported():
        raise UserError("bits are promised on x86-64 with AVX2 only; this machine is another one.")
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        raise UserError(
            "qemu-x86_64: not found. Install it with your system's packages (Debian: apt-get install qemu-user)."
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder, start = Path(temporary), time.monotonic()

        original = copy_project(folder / "original", STEPS)

        def project(name: str) -> Path:
            return Path(shutil.copytree(original, folder / name))

        here = run(project("here"), RUN, [], {})
        print(
            f"this machine: {len(here)} files in {time.monotonic() - start:.0f} s; under QEMU each takes some minutes"
        )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            emulated = pool.map(lambda cpu: run(project(cpu), RUN, [emulator, "-cpu", cpu], {}), CPUS)
            equal = [compare(f"{cpu}, emulated", here, got) for cpu, got in zip(CPUS, emulated, strict=True)]
        one, other = (
            run(project(f"no-pin-{core}"), UNPINNED, [], {"OPENBLAS_CORETYPE": core}) for core in CORES_UNPINNED
        )
        noticed = models_differ(one, other)
        print(
            f"negative control, {' against '.join(CORES_UNPINNED)} kernels without the pin: "
            f"{'different, as it must be' if noticed else 'EQUAL'}"
        )
    print(
        f"{sum(equal)} of {len(CPUS)} CPUs equal, negative control {'red' if noticed else 'GREEN'}; "
        f"{time.monotonic() - start:.0f} s"
    )
    if not (all(equal) and noticed):
        raise UserError("the proof does not hold.")


if __name__ == "__main__":
    run_command(main)
