"""Killed at any moment, the same bytes: SIGKILL to real ``dvc repro`` runs at random moments, and to the training stage
(without DVC and MLflow) before each file operation, that is, before each call of six ``os`` functions by the writer.

Every run is continued with ``dvc repro`` until it ends, and then all it leaves is compared with what an uninterrupted
run left; so are the ids of the sequences in every batch. Negative controls: a working checkpoint with one part of the
state lost, digest intact, must end in other bytes.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.params import read_params
from minitrain.training import checkpoint
from minitrain.training.state import TrainState
from proofs import program
from proofs.project import ROOT, SHORT, copy_project, tree

BATCH_LOG = "batch-ids.jsonl"  # written by hooks/sitecustomize.py
OUTS = ("models", "plots", "data/batches")

# The real model and corpus, and enough steps that a kill often hits the training itself.
LONGER = {**SHORT, "train.steps": 200, "train.eval_every": 20}

# DVC writes these in place. A kill in that moment leaves half of one, and dvc repro then says so and stops. The first
# is taken from git (here, where nothing is in git, it is deleted, and all stages run again); the second, which says
# what running commands hold which file, can be deleted.
DVCS_OWN = ("dvc.lock", ".dvc/tmp/rwlock")

# What a second dvc repro says before it gives up.
DVC_IS_BUSY = ("Unable to acquire lock", "is busy, it is being blocked by")

# Every stage but the gate, which a training as short as this cannot pass.
LAST_STAGES = ("checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare")

TRAIN = (sys.executable, "-c", program("train"))


class Project:
    """A copy of the project under DVC, with the hooks above."""

    def __init__(self, folder: Path, changes: dict[str, Any] = SHORT) -> None:
        self.path = copy_project(folder, changes)
        hooks = ROOT / "proofs" / "hooks"
        self.cut = dict.fromkeys(DVCS_OWN, 0)  # how often a kill hit DVC while it was writing this file
        self.environment = {**os.environ, "PYTHONPATH": f"{hooks}:{self.path}", "PYTHONDONTWRITEBYTECODE": "1"}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.command("dvc", "init", "--no-scm", "--quiet").communicate()

    def command(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in the project, in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.path,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def repro(self) -> subprocess.Popen[str]:
        """``dvc repro`` of all stages but the gate."""
        return self.command("dvc", "repro", "--no-run-cache", *LAST_STAGES)

    def train(self, **environment: str) -> subprocess.Popen[str]:
        """Run the training stage alone, without DVC and MLflow, until it ends."""
        process = self.command(*TRAIN, LOG_BATCHES="1", **environment)
        process.communicate()
        return process

    def finish(self) -> str:
        """Run ``dvc repro`` to the end; what it printed."""
        process = self.repro()
        printed, _ = process.communicate()
        cut = next((name for name in DVCS_OWN if process.returncode != 0 and self.is_cut(name)), None)
        if cut is not None:
            (self.path / cut).unlink()
            self.cut[cut] += 1
            return self.finish()
        if process.returncode != 0:
            raise UserError(f"dvc repro failed:\n{printed}")
        return printed

    def is_cut(self, name: str) -> bool:
        """True when one of DVC's own files is there, but not whole."""
        try:
            content = yaml.safe_load((self.path / name).read_text())  # JSON is YAML too
        except FileNotFoundError:
            return False
        except yaml.YAMLError:
            return True
        return not isinstance(content, dict) or (name == "dvc.lock" and not isinstance(content.get("stages"), dict))

    def left(self) -> dict[str, bytes]:
        """Everything that the run has left, and DVC's lock file."""
        return {**tree(self.path, *OUTS), "dvc.lock": (self.path / "dvc.lock").read_bytes()}

    def logged(self) -> list[tuple[int, int, list[int]]]:
        """The batches so far, in the order in which they were taken: where each began, epoch and position, and its
        ids.
        """
        log = self.path / BATCH_LOG
        lines = log.read_text().split("\n")[:-1] if log.exists() else []  # a line that is being written is none yet
        return [tuple(json.loads(line)) for line in lines]

    def batches(self) -> dict[tuple[int, int], list[int]]:
        """The ids of every batch by where it began. Raises UserError when one place has had two different batches."""
        seen: dict[tuple[int, int], list[int]] = {}
        for epoch, position, ids in self.logged():
            if seen.setdefault((epoch, position), ids) != ids:
                raise UserError(f"epoch {epoch}, position {position}: two different batches.")
        return seen

    def newest_step(self) -> int | None:
        """The step of the newest working checkpoint, if there is one."""
        steps = [int(path.stem.removeprefix("step-")) for path in self.path.glob("checkpoints/*/step-*.safetensors")]
        return max(steps, default=None)

    def forget(self) -> None:
        """Back to before the first run."""
        for name in (*OUTS, "checkpoints", "mlruns"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("dvc.lock", "mlflow.db", BATCH_LOG):
            (self.path / name).unlink(missing_ok=True)


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """SIGKILL to the process and all its children after some time; False when it had ended before."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    return False


def kill_in_training(process: subprocess.Popen[str], project: Project, n_batches: int) -> bool:
    """SIGKILL to the process and all its children when that many batches more have been taken; False when it had ended
    before.
    """
    enough = len(project.logged()) + n_batches
    while len(project.logged()) < enough:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return kill_after(process, 0)


def check(project: Project, reference: dict[str, bytes], batches: dict[tuple[int, int], list[int]], when: str) -> None:
    """Compare everything that has been left with what the uninterrupted run left."""
    got = project.left()
    different = sorted(name for name in reference.keys() | got.keys() if reference.get(name) != got.get(name))
    if different:
        raise UserError(f"killed {when}: different: {', '.join(different)}")
    if project.batches() != batches:
        raise UserError(f"killed {when}: other batches")


def went_on(project: Project, newest: int | None, n_before: int, order: list[tuple[int, int, list[int]]]) -> bool:
    """Whether a run that found ``newest`` as the step of its newest checkpoint went on from it, that is, took batches.
    UserError when the first of them, after ``n_before`` that had been logged, is not the one that comes next.
    """
    taken = project.logged()[n_before:]
    if taken and taken[:1] != order[newest or 0 :][:1]:
        raise UserError(
            f"the newest checkpoint is of step {newest}, and the run went on with another batch than the next"
        )
    return bool(taken and newest)


def random_kills(project: Project, n_kills: int) -> str:
    """Kill ``dvc repro`` at random moments until ``n_kills`` are done, several in one run, half of them aimed at the
    training. Returns what happened.
    """
    rng, kills, runs, in_training, continued = random.Random(18), 0, 0, 0, 0
    start = time.monotonic()
    project.finish()
    duration = time.monotonic() - start
    reference, batches, order = project.left(), project.batches(), project.logged()
    while kills < n_kills:
        project.forget()
        runs, in_this_run = runs + 1, rng.randint(1, 8)
        while in_this_run > 0 and kills < n_kills:
            newest, n_before, process = project.newest_step(), len(project.logged()), project.repro()
            aimed = rng.random() < 0.5
            killed = (
                kill_in_training(process, project, rng.randrange(max(1, len(order) - (newest or 0))))
                if aimed
                else kill_after(process, rng.uniform(0.5, duration))
            )
            continued += went_on(project, newest, n_before, order)
            if not killed:
                break
            in_this_run, kills = in_this_run - 1, kills + 1
            in_training += len(project.logged()) > n_before and not (project.path / "models").exists()
        newest, n_before = project.newest_step(), len(project.logged())
        project.finish()
        continued += went_on(project, newest, n_before, order)
        check(project, reference, batches, f"at random ({kills} kills so far)")
        print(f"\r{kills} of {n_kills} random kills, {runs} runs", end="", flush=True)
    print()
    return (
        f"{kills} random kills in {runs} runs, {in_training} of them while training; {continued} times dvc repro went "
        "on from a checkpoint, with the batch that comes next"
    )


def kills_at_writes(
    project: Project, step: int, reference: dict[str, bytes], batches: dict[tuple[int, int], list[int]]
) -> int:
    """Kill the training right before its 1st, 2nd, 3rd ... operation on a file, until one run needs no kill.

    Without DVC around it and MLflow after it, for there are hundreds of operations. Returns how many.
    """
    reference = {name: data for name, data in reference.items() if name.startswith(("models/", "plots/train/"))}
    del reference["plots/train/loss.png"]  # which the last stage draws
    operation, kills = 1, 0
    while True:
        for name in ("models", "plots/train", "checkpoints", BATCH_LOG):
            path = project.path / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        process = project.train(KILL_BEFORE=str(operation))
        if process.returncode == 0:
            return kills
        if process.returncode != -signal.SIGKILL:
            raise UserError(f"killed before operation {operation}: ended with {process.returncode} instead")
        project.train()
        got = tree(project.path, "models", "plots/train")
        if got != reference or project.batches() != batches:
            raise UserError(f"killed before operation {operation}: other files or batches")
        kills += 1
        print(f"\r{kills} kills at writes", end="", flush=True)
        operation += step


def two_at_once(project: Project, reference: dict[str, bytes], batches: dict[tuple[int, int], list[int]]) -> str:
    """Start ``dvc repro`` twice at the same moment; what became of them. DVC's own lock lets one work at a time."""
    project.forget()
    runs = [project.repro(), project.repro()]
    printed = [run.communicate()[0] for run in runs]
    for run, text in zip(runs, printed, strict=True):
        if run.returncode != 0 and not any(said in text for said in DVC_IS_BUSY):
            raise UserError(f"two at once: one failed, and not for the lock:\n{text}")
    gave_up = sum(run.returncode != 0 for run in runs)
    if gave_up == len(runs):
        raise UserError("two at once: both gave up")
    check(project, reference, batches, "never, two at once")
    return f"{gave_up} gave up, {len(runs) - gave_up} ended well"


LOST: dict[str, Callable[[TrainState], object]] = {
    "model": lambda state: state.model.weights.__setitem__(0, 0),
    "m": lambda state: state.optimizer.m.fill(0),
    "v": lambda state: state.optimizer.v.fill(0),
    "optimizer step": lambda state: setattr(state.optimizer, "t", 0),
    "scheduler": lambda state: setattr(state.scheduler, "shape", dataclasses.replace(state.scheduler.shape, lr=0.002)),
    "step": lambda state: setattr(state.scheduler, "step", state.step - 1),
    "data position": lambda state: setattr(state.data, "position", 0),
    "RNG state": lambda state: setattr(state, "rng", np.random.Generator(np.random.PCG64(0))),
    "best so far": lambda state: setattr(state.best, "loss", 0.0),
}


def lose(project: Project, change: Callable[[TrainState], object]) -> dict[str, bytes]:
    """Kill a training after step 10, change its only checkpoint, digest intact, and go on; the models it leaves."""
    shutil.rmtree(project.path / "checkpoints", ignore_errors=True)
    process = project.command(*TRAIN)
    while project.newest_step() in (None, 0) and process.poll() is None:
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (path,) = project.path.glob("checkpoints/*/step-000000010.safetensors")
    for other in path.parent.glob("step-*.safetensors"):
        if other != path:
            other.unlink()
    params = read_params(project.path / "params.yaml")
    state = checkpoint.load_state(path, params.model, params.train)
    change(state)
    files.write_bytes(path, tensors.encode_tensors(checkpoint.state_tensors(state)))
    if project.train().returncode != 0:
        raise UserError("negative controls: a training that goes on from a changed checkpoint failed")
    return tree(project.path, "models")


def unnoticed_losses(project: Project, reference: dict[str, bytes]) -> list[str]:
    """Lose one part of a checkpoint at a time; the names of the losses that did NOT end in other bytes. To lose nothing
    must end in the same.
    """
    models = {name: data for name, data in reference.items() if name.startswith("models/")}
    if lose(project, lambda state: None) != models:
        raise UserError("negative controls: a checkpoint that has lost nothing ends in other bytes")
    return [name for name, change in LOST.items() if lose(project, change) == models]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m proofs.kills")
    parser.add_argument("--kills", type=int, default=100, help="random kills (default: 100)")
    parser.add_argument("--every", type=int, default=1, help="kill before every Nth file operation only (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        start = time.monotonic()
        project = Project(Path(temporary) / "project")
        project.finish()
        reference, batches = project.left(), project.batches()
        print(f"an uninterrupted run leaves {len(reference)} files and takes {len(batches)} batches")
        print(f"two runs at once: {two_at_once(project, reference, batches)}")
        operations = kills_at_writes(project, arguments.every, reference, batches)
        print(f", one before {'each' if arguments.every == 1 else f'every {arguments.every}th'} file operation")
        unnoticed = unnoticed_losses(project, reference)
        print(f"negative controls: {len(LOST) - len(unnoticed)} of {len(LOST)} losses noticed ({', '.join(LOST)})")
        longer = Project(Path(temporary) / "longer", LONGER)
        at_random = random_kills(longer, arguments.kills)
        own = ", ".join(f"{name} {longer.cut[name] + project.cut[name]} times" for name in DVCS_OWN)
        print(
            f"{at_random}; {operations} kills at writes: all outs and batches equal; "
            f"files of DVC's own cut and removed: {own}; {time.monotonic() - start:.0f} s"
        )
    if unnoticed:
        raise UserError(f"not noticed: {', '.join(unnoticed)}")


if __name__ == "__main__":
    run_command(main)
