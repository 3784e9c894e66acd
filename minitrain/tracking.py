"""MLflow: a window onto manifests and metrics files, never their source.

Everything here is read back from files that are safe on disk, so a lost store fills itself again: first the run
of the model is found (by the model file's hash), and made when there is none. The store is ``mlflow.db`` in the
project's root, where ``mlflow ui`` looks, unless ``MLFLOW_TRACKING_URI`` names another. ``python -m
minitrain.tracking`` logs what is on disk now.

This module only observes: it changes no output, so no stage of dvc.yaml depends on it.

The store may be a server, so nothing leaves the project but what the pipeline makes: of a model that loads, its
manifest, and the files in plots/ that dvc.yaml names.
"""

import csv
import logging
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minitrain.base import UserError, files, formats, layout
from minitrain.base.process import run_command
from minitrain.params import read_params
from minitrain.training.export import read_manifest, read_model

os.environ |= {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # Of a server that does not answer, MLflow should say so after a minute, not many.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    **os.environ,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # an address may hold a password
}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of mlflow's own dependencies
    from mlflow.entities import Metric, Param, Run
    from mlflow.tracking import MlflowClient

EXPERIMENT = "minitrain-phase18"
LOCAL_STORE = Path("mlflow.db")
BATCH = 1000  # metrics in one call: MLflow's limit


def log_run(models: Path, plots: Path, stages: Sequence[str]) -> str:
    """Make the run of the one model in ``models`` complete, whatever the store has lost or has from elsewhere: the
    training, and the results of these stages as they are in ``plots``. Returns a line that says where the run is.
    """
    with _mlflow():
        exported = read_model(models, read_params(models.parent / "params.yaml").model)
        manifest_path = _in_project(layout.manifest_path(exported.path))
        left = {stage: _left_by(stage, models.parent) for stage in stages}
        client = _client()
        manifest = exported.manifest
        run_id = _find_run(client, manifest) or _fill_run(client, manifest, manifest_path, plots / "train")
        for stage, paths in left.items():
            _add_results(client, run_id, plots, stage, paths)
    return f"MLflow: runs:/{run_id} in {shown_uri()}"


def log_or_say_why_not(stages: Sequence[str]) -> str:
    """``log_run`` for a stage, whose work is done whatever becomes of this: prints and returns a line either way."""
    try:
        line = log_run(layout.MODELS, layout.PLOTS, stages)
    except UserError as error:
        line = f"note: {error}"
    print(line)
    return line


def recorded_run(models: Path) -> tuple[Run, list[tuple[int, float]]]:
    """The run of the model in ``models`` as the store has it, and the loss of each step; UserError without one."""
    with _mlflow():
        client = _client()
        run_id = _find_run(client, read_manifest(models))
        if run_id is None:
            raise UserError(f"{shown_uri()}: expected a run of the model in {models}, found none.")
        losses = sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss"))
        return client.get_run(run_id), losses


def results(plots: Path, stages: Sequence[str]) -> dict[str, float]:
    """The headline numbers: ``metrics.json`` of those of the stages that leave one."""
    paths = [plots / stage / "metrics.json" for stage in stages]
    numbers = [item for path in paths if path.exists() for item in formats.read_json(path).items()]
    return {name: float(value) for name, value in numbers if value is not None}


def _left_by(stage: str, project: Path) -> list[Path]:
    """The files in ``plots`` that dvc.yaml names as what the stage leaves; what is missing is for the gate to say."""
    of_stage = formats.read_yaml(project / "dvc.yaml")["stages"][stage]
    outs = [out for kind in ("outs", "metrics", "plots") for out in of_stage.get(kind, []) if isinstance(out, dict)]
    paths = [project / Path(*out) for out in outs]
    return [_in_project(path) for path in paths if path.exists()]


def _in_project(path: Path) -> Path:
    """The path; UserError where a link is on the way: it may lead to what is not the project's."""
    if path.resolve() != path.absolute():
        raise UserError(f"{path}: expected a file, got a link to {path.resolve()}. Put the file itself here.")
    return path


# --- where the store is ------------------------------------------------------------------------------


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or a local SQLite store at an absolute place: a relative one would move with the
    working folder.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{LOCAL_STORE.resolve()}"


def shown_uri() -> str:
    """``tracking_uri()`` for people and logs; an address that somebody gave may hold a password."""
    return "the store that MLFLOW_TRACKING_URI names" if os.environ.get("MLFLOW_TRACKING_URI") else tracking_uri()


def _client() -> MlflowClient:
    if not os.environ.get("MLFLOW_TRACKING_URI") and not LOCAL_STORE.exists():
        # MLflow builds its tables in many steps and cannot go on from half of them: a kill must leave all or none.
        files.create(
            LOCAL_STORE.resolve(), lambda path: MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        )
    return MlflowClient(tracking_uri=tracking_uri())


def _experiment(client: MlflowClient) -> str:
    here = Path("mlruns").resolve().as_uri()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment and not os.environ.get("MLFLOW_TRACKING_URI") and experiment.artifact_location != here:
        # The project was copied or moved, with its store. What was logged keeps its place, new artifacts are here.
        print(f"note: {LOCAL_STORE} comes from another place; from now on its artifacts are in {here}")
        client.rename_experiment(experiment.experiment_id, f"{EXPERIMENT} at {experiment.artifact_location}")
        experiment = None
    if experiment is None:
        artifacts = here if tracking_uri().startswith("sqlite:") else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextmanager
def _mlflow() -> Iterator[None]:
    """Around every use of MLflow: its own warnings are not ours, and its errors become one clear line."""
    logging.disable()  # what it logs may hold the address of the store, with the password
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # of MLflow, its drivers, or over a file that is not what it should be
        reason = " ".join(str(error).split())[:300]
        if os.environ.get("MLFLOW_TRACKING_URI"):  # the message may repeat that address, or the half with the password
            reason = f"{type(error.__context__ or error).__name__} (mlflow experiments search says more)"
        raise UserError(
            f"MLflow in {shown_uri()}: {reason}. The results are on disk: fix the store (or unset "
            "MLFLOW_TRACKING_URI), then log them with: make log-run"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


# --- one run -----------------------------------------------------------------------------------------


def _find_run(client: MlflowClient, manifest: Mapping[str, Any]) -> str | None:
    # The inputs as well: other code may train the same bytes, and that is another run. One that was killed while it
    # was filled is not finished.
    query = f"tags.model_sha256 = '{manifest['files'][manifest['model']]}'"
    query += f" and tags.inputs_digest = '{manifest['inputs_digest']}' and attributes.status = 'FINISHED'"
    return next((str(run.info.run_id) for run in client.search_runs([_experiment(client)], query)), None)


def _fill_run(client: MlflowClient, manifest: Mapping[str, Any], manifest_path: Path, tables: Path) -> str:
    """Log the training: parameters, tags, every step and evaluation, manifest and tables."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    tags = {
        "model_sha256": manifest["files"][manifest["model"]],
        "inputs_digest": manifest["inputs_digest"],
        "code_digest": manifest["code_digest"],
        "model_file": manifest["model"],
        # What is volatile belongs here, and not in the manifest.
        "owner": f"{platform.node()}:{Path.cwd()}",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mlflow.source.git.commit": commit.stdout.strip() or "none",
    }
    run_name = manifest["model"].removesuffix(".safetensors")
    run_id = str(client.create_run(_experiment(client), run_name=run_name, tags=tags).info.run_id)
    settings = dict(_leaves(manifest["config"]))
    settings |= {name: manifest[name] for name in ("parameters", "config_hash", "data_manifest_sha256")}
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in settings.items()])
    _log(client, run_id, _table(tables / "log.csv") + _table(tables / "evaluations.csv"))
    client.log_artifact(run_id, str(manifest_path))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _add_results(client: MlflowClient, run_id: str, plots: Path, stage: str, paths: Sequence[Path]) -> None:
    """Log the numbers of a stage that the run does not have yet, and then the files of the stage as artifacts."""
    recorded = client.get_run(run_id).data.metrics
    changed = {name: value for name, value in results(plots, [stage]).items() if recorded.get(name) != value}
    # MLflow's newest value is that of the highest step, whatever the clock says, and of equal steps and times the
    # larger one. So what replaces a value comes at a step after it.
    before = [m.step for name in changed if name in recorded for m in client.get_metric_history(run_id, name)]
    step = max(before, default=-1) + 1
    _log(client, run_id, [Metric(name, value, _now(), step) for name, value in changed.items()])
    for path in paths:
        client.log_artifact(run_id, str(path), path.relative_to(plots.parent).parent.as_posix())


def _log(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _table(path: Path) -> list[Metric]:
    """The numbers of a table, each at its row's step."""
    now = _now()
    return [
        Metric(name, float(value), now, int(row["step"]))
        for row in csv.DictReader(files.read_text(path).splitlines())
        for name, value in row.items()
        if name != "step"
    ]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with dotted names."""
    for key, member in value.items():
        if isinstance(member, Mapping):
            yield from _leaves(member, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", member


def _now() -> int:
    return int(time.time() * 1000)


if __name__ == "__main__":
    run_command(lambda: print(log_run(layout.MODELS, layout.PLOTS, layout.STAGES[1:])))
