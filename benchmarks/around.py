"""What everything around the training costs: DVC, checkpoints, MLflow, imports. Writes ``benchmarks/around.md``."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.machine import machine
from minitrain.base import files, layout
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.loop import CheckpointDue, Step, checkpoint_is_due, train
from minitrain.params import read_params
from minitrain.training import checkpoint
from minitrain.training.state import initial_state
from proofs.project import copy_project

RESULTS = Path("benchmarks/around.md")
TIMES = 5
MLFLOW = """
import time
start = time.perf_counter()
from pathlib import Path
from minitrain import tracking
imported = time.perf_counter()
tracking.MlflowClient(tracking.tracking_uri()).search_experiments()
made = time.perf_counter()
tracking.log_run(Path({models!r}), Path({plots!r}), ["train"])
print(imported - start, made - imported, time.perf_counter() - made)
"""


def seconds_of(command: list[str], folder: Path) -> float:
    """Wall time of a command that must succeed."""
    start = time.perf_counter()
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise UserError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return time.perf_counter() - start


def nothing_to_do(folder: Path) -> tuple[float, float]:
    """Median seconds of ``dvc repro`` where nothing has changed: here, but for the gate, which always runs; and in an
    empty project of as many stages.
    """
    ours, empty = copy_project(folder / "ours"), folder / "empty"
    for name in ("models", "plots", "data/batches"):
        shutil.copytree(name, ours / name)
    for name in ("dvc.yaml", "dvc.lock"):
        content = yaml.safe_load(Path(name).read_text())
        del content["stages"]["verify"]
        (ours / name).write_text(yaml.safe_dump(content, sort_keys=False))
    empty.mkdir()
    (empty / "file").write_text("")
    stages = {f"stage-{index}": {"cmd": "true", "deps": ["file"]} for index in range(len(layout.STAGES))}
    (empty / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc = str(Path(sys.executable).parent / "dvc")
    for project in (ours, empty):
        seconds_of([dvc, "init", "--no-scm", "--quiet"], project)
        seconds_of([dvc, "repro"], project)
    seconds: dict[Path, list[float]] = {ours: [], empty: []}
    for _ in range(TIMES):
        for project, values in seconds.items():
            values.append(seconds_of([dvc, "repro"], project))
    return statistics.median(seconds[ours]), statistics.median(seconds[empty])


def checkpoints(folder: Path, steps: int) -> tuple[float, float]:
    """Seconds of saving a working checkpoint, and of a step, medians over a short training."""
    params = read_params()
    state = initial_state(params.model, params.train)
    stores = read_dataset(layout.BATCHES, params.model).stores
    saves, durations, before = [], [], time.perf_counter()
    for event in train(state, stores["train"], stores["val"], params.model, params.train):
        now = time.perf_counter()
        if isinstance(event, CheckpointDue) or (isinstance(event, Step) and event.step % 20 == 0):
            checkpoint.save_working(folder, state, params.train)
            saves.append(time.perf_counter() - now)
        elif isinstance(event, Step):
            durations.append(now - before)
        before = time.perf_counter()
        if state.step == steps:
            break
    return statistics.median(saves), statistics.median(durations)


def mlflow(folder: Path) -> tuple[float, float, float]:
    """Seconds of importing MLflow, of making a database (once in a clone), and of recording the training run."""
    code = MLFLOW.format(models=str(layout.MODELS.resolve()), plots=str(layout.PLOTS.resolve()))
    environment = {**os.environ, "PYTHONPATH": str(Path().resolve()), "MLFLOW_TRACKING_URI": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    importing, making, recording = map(float, result.stdout.split())
    return importing, making, recording


def main() -> None:
    params = read_params()
    with tempfile.TemporaryDirectory() as temporary:
        ours, empty = nothing_to_do(Path(temporary))
    with tempfile.TemporaryDirectory() as temporary:
        save, step = checkpoints(Path(temporary), 300)
    with tempfile.TemporaryDirectory() as temporary:
        importing, making, recording = mlflow(Path(temporary))
    n_saves = sum(checkpoint_is_due(step, params.train) for step in range(params.train.steps + 1))
    lines = [
        "# Around the training",
        "",
        f"On {machine()}; `make bench`.",
        "",
        f"- `dvc repro` with nothing to do, without the gate: {ours:.2f} s, {ours / empty:.2f} times that of an empty "
        f"DVC project of as many stages ({empty:.2f} s).",
        f"- A working checkpoint takes {1e3 * save:.1f} ms, all {n_saves} of a run "
        f"{100 * n_saves * save / (params.train.steps * step):.2f} % of its training time.",
        f"- MLflow takes {importing + recording:.1f} s a run: {importing:.1f} s to import, {recording:.1f} s to write "
        f"the run. The first run of a clone makes the database as well: {making:.1f} s.",
    ]
    for stage in layout.STAGES:
        module = f"stages.{stage.replace('-', '_')}"
        seconds = statistics.median(
            seconds_of([sys.executable, "-c", f"import {module}"], Path()) for _ in range(TIMES)
        )
        lines.append(f"- `import {module}`: {seconds:.2f} s.")
    files.write_bytes(RESULTS, ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(main)
