"""Killed at any moment, the same bytes: SIGKILL to real ``dvc repro`` runs at random moments, and to the training stage
and the one before it (without DVC and MLflow) before each operation of the writer on a file.

Every run is continued until it ends, and then all it leaves is compared with what an uninterrupted run left, and so are
the ids of the sequences in every batch. Negative control: a working checkpoint that has lost one part of the state,
digest intact, must end in other bytes (tests/test_loop.py loses every part); one that has lost nothing must not.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from minitrain.base import UserError, files, process, tensors
from minitrain.params import read_params
from minitrain.training import checkpoint
from minitrain.training.state import TrainState
from proofs import program
from proofs.project import ROOT, SHORT, copy_project, different, tree

BATCHES_LOG = "batches.log"  # written by hooks/sitecustomize.py: a line for each batch, where it began and its ids
OUTS = ("models", "plots", "data/batches")
CHECKPOINTS = "checkpoints/*/step-*.safetensors"
STAGES = ("checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare")  # all but the gate: too short for it
LONGER = {**SHORT, "train.steps": 200, "train.eval_every": 20}  # enough steps that a kill often hits the training

# DVC writes these in place. A kill in that moment leaves half of one, and dvc repro then says so and stops. The first
# is taken from git (here, where nothing is in git, it is deleted, and all stages run again); the second, which says
# what running commands hold which file, can be deleted.
CUT = {"dvc.lock": "dvc.lock' is invalid", ".dvc/tmp/rwlock": "rwlock'. JSON structure is corrupted"}


def renew(project: Path, changes: dict[str, int]) -> None:
    """A new copy of the project, under DVC, in the place of the one that was there."""
    shutil.rmtree(project, ignore_errors=True)
    copy_project(project, changes)
    (project / ".dvc").mkdir()
    (project / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")  # as by: dvc init --no-scm


def start(project: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    """Start a command in the project, with the hooks, in a process group of its own."""
    paths = (ROOT / "proofs" / "hooks", project, ROOT)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **environment,
    }
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def repro(project: Path) -> subprocess.Popen[str]:
    """Start ``dvc repro``."""
    return start(project, "dvc", "repro", "--no-run-cache", *STAGES)


def finish(project: Path) -> None:
    """Run ``dvc repro`` to the end; a file of DVC's own that was cut is deleted first."""
    run = repro(project)
    printed, _ = run.communicate()
    cut = [project / name for name, said in CUT.items() if said in printed]
    if run.returncode and not cut:
        raise UserError(f"dvc repro failed:\n{printed}")
    for path in cut:
        path.unlink()
        finish(project)


def train(project: Path, **environment: str) -> int:
    """Run the training and the stage before it, without DVC and MLflow, until they end; their exit code."""
    code = program("shard_to_batches", "train")
    run = start(project, sys.executable, "-c", code, DVC_STAGE="train", **environment)
    run.communicate()
    return run.returncode


def batches(project: Path) -> list[str]:
    """The batches so far, in the order in which they were taken."""
    log = project / BATCHES_LOG
    return log.read_text().splitlines() if log.exists() else []


def newest_step(project: Path) -> int:
    """The step of the newest working checkpoint; 0 without one."""
    return max((int(path.stem.removeprefix("step-")) for path in project.glob(CHECKPOINTS)), default=0)


def left(project: Path) -> dict[str, bytes]:
    """Everything that a run has left, DVC's lock file, and the batches, which may have been taken more than once."""
    batches_taken = "\n".join(sorted(set(batches(project)))).encode()
    lock = {path.name: path.read_bytes() for path in project.glob("dvc.lock")}  # training alone has none
    return {**tree(project, *OUTS), **lock, "batches": batches_taken}


def check(project: Path, reference: dict[str, bytes], when: str) -> None:
    """Compare everything that has been left with what the uninterrupted run left."""
    if wrong := different(reference, left(project)):
        raise UserError(f"killed {when}: different: {', '.join(wrong)}")


def kill_at_random(rng: random.Random, project: Path, seconds: float, n: int) -> bool:
    """Start ``dvc repro``; SIGKILL to it and all its children within so many seconds or, half of the times, when up to
    n batches more have been taken. False when it had ended before.
    """
    taken = len(batches(project)) + rng.randint(1, max(1, n))
    deadline = time.monotonic() + rng.uniform(0.5, seconds)
    aimed, run = rng.random() < 0.5, repro(project)
    while run.poll() is None and (len(batches(project)) < taken if aimed else time.monotonic() < deadline):
        time.sleep(0.002)
    killed = run.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    return killed


def went_on(step: int, taken: Sequence[str], order: Sequence[str]) -> bool:
    """Whether a run whose newest checkpoint was of that step went on from it, that is, took batches. UserError when the
    first of them is not the one that comes next in the uninterrupted ``order``.
    """
    if taken and taken[:1] != order[step:][:1]:
        raise UserError(
            f"the newest checkpoint is of step {step}, and the run went on with another batch than the next"
        )
    return bool(taken and step)


def random_kills(project: Path, n_kills: int) -> tuple[int, int]:
    """Kill ``dvc repro`` at random moments, up to eight times in one run, half of them aimed at the training; the
    number of kills, and how often the next ``dvc repro`` went on from a checkpoint.
    """
    renew(project, LONGER)
    began = time.monotonic()
    finish(project)
    seconds = time.monotonic() - began
    reference, order = left(project), batches(project)
    rng, kills, continued = random.Random(18), 0, 0
    while kills < n_kills:
        renew(project, LONGER)
        for _ in range(min(rng.randint(1, 8), n_kills - kills)):
            step, before = newest_step(project), len(batches(project))
            kills += kill_at_random(rng, project, seconds, len(order) - step)
            continued += went_on(step, batches(project)[before:], order)
        finish(project)
        check(project, reference, f"at random ({kills} kills so far)")
    return kills, continued


def killed_before(operation: int, project: Path) -> bool:
    """Train anew, but die right before the Nth operation on a file; False when the training ends before."""
    renew(project, SHORT)
    status = train(project, KILL_BEFORE=str(operation))
    if status not in (0, -signal.SIGKILL):
        raise UserError(f"killed before operation {operation}: ended with {status} instead")
    return status != 0


def kills_at_writes(project: Path, reference: dict[str, bytes], every: int) -> int:
    """Kill the training, and the stage before it, right before their 1st, 2nd, 3rd ... operation on a file, or only
    before every Nth, until one run needs no kill; the number of kills. Without DVC and MLflow, for there are hundreds.
    """
    kills = 0
    while killed_before(1 + kills * every, project):
        train(project)
        check(project, reference, f"before operation {1 + kills * every}")
        kills += 1
    return kills


def left_after(project: Path, change: Callable[[TrainState], object]) -> dict[str, bytes]:
    """Kill a training midway, change its newest checkpoint, digest intact, go on; what is left."""
    killed_before(150, project)
    path = max(project.glob(CHECKPOINTS))
    params = read_params(project / "params.yaml")
    state = checkpoint.load_state(path, params.model, params.train)
    change(state)
    files.write_bytes(path, tensors.encode_tensors(checkpoint.state_tensors(state)))
    train(project)
    return left(project)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.kills")
    parser.add_argument("--kills", type=int, default=100, help="random kills (default: 100)")
    parser.add_argument("--every", type=int, default=1, help="kill before every Nth file operation only (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / "project"
        renew(project, SHORT)
        train(project)
        reference = left(project)
        print(f"an uninterrupted training leaves {len(reference)} files and takes {len(batches(project))} batches")
        if left_after(project, lambda state: None) != reference:
            raise UserError("negative control: a checkpoint that has lost nothing ends in other bytes")
        if left_after(project, lambda state: state.optimizer.m.fill(0)) == reference:
            raise UserError("negative control: a checkpoint without the optimiser's m ends in the same bytes")
        print("negative control: a checkpoint without the optimiser's m ends in other bytes, a whole one does not")
        kills = kills_at_writes(project, reference, arguments.every)
        print(f"{kills} kills, before one of {arguments.every} file operations: all files and batches equal")
        kills, continued = random_kills(project, arguments.kills)
        if not continued:
            raise UserError("the proof does not hold: no run went on from a checkpoint. Kill more often: --kills N")
        print(f"{kills} random kills, and dvc repro went on from a checkpoint {continued} times: all equal")


if __name__ == "__main__":
    process.run_command(main)
