"""A real ``mlflow server`` on loopback, from which a run of the pipeline can be read, equal to the files on disk. And a
real queue of DVC's: experiments that train two at a time all have their run in the project's own store.
"""

import csv
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from minitrain import mlflow_store
from minitrain.base import UserError, layout, process
from proofs.project import DVC, SHORT, copy_project, make_repository, must_run, tree
from proofs.servers import free_port, server, wait_until

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

# What queued experiments change. The last one trains nothing anew, and so has the model of the commit.
QUEUED = {"low": "train.lr=0.002", "lower": "train.lr=0.001", "other-n-grams": "ngram.alpha=0.02"}


def finished_runs(uri: str) -> dict[str, Any]:
    """The finished runs in a store, by name."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'") if experiment else []
    return {run.info.run_name: run for run in runs}


def compare(project: Path, uri: str) -> int:
    """Compare the run of the project's model with what is on disk; how many files. UserError names what differs."""
    (manifest,) = project.glob("models/*.manifest.json")
    run = finished_runs(uri).get(manifest.name.removesuffix(".manifest.json"))
    if run is None:
        raise UserError("different: there is no run of the model")
    client, wrong = MlflowClient(uri), []
    for path in project.glob("plots/*/metrics.json"):
        wrong += [key for key, value in json.loads(path.read_text()).items() if run.data.metrics.get(key) != value]
    with (project / "plots/train/log.csv").open() as table:
        losses = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(table)]
    history = sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss"))
    wrong += ["loss"] if history != losses else []
    with tempfile.TemporaryDirectory() as folder:
        client.download_artifacts(run.info.run_id, "", folder)
        logged = tree(Path(folder))
    wrong += [name for name, data in logged.items() if (project / name).read_bytes() != data]
    wrong += [name for name in tree(project, "plots") if name.split("/")[1] in layout.STAGES[1:] and name not in logged]
    if wrong:
        raise UserError(f"different in MLflow and on disk: {', '.join(wrong)}")
    return len(logged)


def log_to_server(folder: Path) -> None:
    """Run the stages with a server up, and ``make log-run``; compare what it has."""
    port = free_port()
    project, uri = copy_project(folder / "project", SHORT), f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    with server(folder, f"{uri}/health", *command):
        for stage in layout.STAGES:
            must_run(project, sys.executable, "-m", f"stages.{stage.replace('-', '_')}", MLFLOW_TRACKING_URI=uri)
        must_run(project, sys.executable, "-m", "minitrain.tracking", MLFLOW_TRACKING_URI=uri)
        print(f"a server: curves, results and {compare(project, uri)} files, as on disk", flush=True)


def queue(project: Path) -> None:
    """Queue some experiments, run them two at a time, and look for their runs."""
    copy_project(project, SHORT)
    make_repository(project)
    for name, change in QUEUED.items():
        must_run(project, *DVC, "exp", "run", "--queue", "--name", name, "--set-param", change)
    must_run(project, *DVC, "queue", "start", "--jobs", "2")
    status = (*DVC, "queue", "status")
    wait_until(lambda: must_run(project, *status).count("Success") == len(QUEUED), "three experiments that succeed")
    wait_until(lambda: "0 active, 0 idle" in must_run(project, *status), "a queue whose workers have ended")
    found = {name: run.data.tags["changed"] for name, run in finished_runs(f"sqlite:///{project}/mlflow.db").items()}
    if found != QUEUED:
        raise UserError(f"expected the runs {QUEUED}, found {found}")
    print(f"a queue, two at a time: {len(found)} runs in the project's store, by name, with what was changed")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        queue(Path(temporary).resolve() / "queue")
        log_to_server(Path(temporary).resolve())


if __name__ == "__main__":
    process.run_command(main)
