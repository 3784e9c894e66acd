"""A real ``mlflow server`` on loopback, from which a run of the pipeline can be read, equal to the files on disk."""

import csv
import json
import os
import sys
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient

from minitrain import mlflow_store
from minitrain.base import UserError, layout, process
from proofs.project import SHORT, copy_project, must_run, tree
from proofs.servers import free_port, server

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"


def compare(project: Path, uri: str) -> int:
    """Compare the run of the project's model with what is on disk; how many files. UserError names what differs."""
    (manifest,) = project.glob("models/*.manifest.json")
    client, wrong = MlflowClient(uri), []
    experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'")
    wrong += [] if f"{run.info.run_name}.manifest.json" == manifest.name else ["the name of the run"]
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
    if wrong:
        raise UserError(f"different in MLflow and on disk: {', '.join(wrong)}")
    return len(logged)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, port = Path(temporary).resolve(), free_port()
        project, uri = copy_project(folder / "project", SHORT), f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        command += ["--artifacts-destination", f"{folder}/files"]
        with server(folder, f"{uri}/health", *command):
            for stage in layout.STAGES:
                must_run(project, sys.executable, "-m", f"stages.{stage.replace('-', '_')}", MLFLOW_TRACKING_URI=uri)
            must_run(project, sys.executable, "-m", "minitrain.tracking", MLFLOW_TRACKING_URI=uri)
            print(f"a server: curves, results and {compare(project, uri)} files, as on disk")


if __name__ == "__main__":
    process.run_command(main)
