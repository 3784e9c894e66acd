"""MLflow: a window onto manifests and metrics files, never their source.

Everything here is read back from files that are safe on disk, so a lost store fills itself again: each
function first finds the run of the model (by the model file's hash) and makes it when there is none.
The store is ``mlflow.db`` in the project's root, where ``mlflow ui`` looks, unless
``MLFLOW_TRACKING_URI`` names another.
"""

import csv
import os
import platform
import re
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that does not answer: a minute, not many
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of mlflow's own dependencies
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

from minitrain import files
from minitrain.errors import UserError

EXPERIMENT = "minitrain-phase18"
LOCAL_STORE = Path("mlflow.db")
HASH_TAG = "model_sha256"
BATCH = 1000  # metrics in one call: MLflow's limit
PARAM_BATCH = 100


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or a local SQLite store at an absolute place: a relative one would move with the
    working folder. UserError where the folder's name cannot be part of such a URI.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    store = str(LOCAL_STORE.resolve())
    if not named and set(store) & set("%?'\""):
        raise UserError(
            f"{store}: MLflow cannot keep its store in a folder with one of % ? ' \" in its name. Rename the folder, "
            "or set MLFLOW_TRACKING_URI."
        )
    return named or f"sqlite:///{store}"


def shown_uri() -> str:
    """``tracking_uri()`` for people and logs: without a name and password."""
    return _without_credentials(tracking_uri())


def _without_credentials(text: str) -> str:
    """``text``, in which no URI has a name and password. A password may have ``/`` and ``@`` in it: for SQLAlchemy."""
    return re.sub(r"://[^\s/@]*(:\S*)?@", "://", text)


def training_run(models: Path, plots: Path) -> str:
    """``runs:/ID`` of the run of the one model in ``models``; filled from its manifest and the logs in
    ``plots`` when there is none.
    """
    with _mlflow():
        client = _client()
        run_id = _find_run(client, _manifest(models)) or _fill_run(client, models, plots)
        return f"runs:/{run_id}"


def add_results(models: Path, plots: Path, stage: str) -> None:
    """Add ``plots/<stage>/`` to the model's run: numbers of ``metrics.json`` as ``stage/key`` (MLflow's page groups
    by what is before the slash), all files as artifacts.
    """
    with _mlflow():
        client = _client()
        _add_results(
            client, _find_run(client, _manifest(models)) or _fill_run(client, models, plots / "train"), plots, stage
        )


def ensure_run(models: Path, plots: Path, stages: Sequence[str]) -> None:
    """Make the run of the model complete, whatever the store has lost or has from elsewhere: the training, and the
    results of each stage as they are on disk.
    """
    with _mlflow():
        client = _client()
        run_id = _find_run(client, _manifest(models)) or _fill_run(client, models, plots / "train")
        recorded = client.get_run(run_id).data.metrics
        for stage in stages:
            if not results(plots, stage).items() <= recorded.items():
                _add_results(client, run_id, plots, stage)


def results(plots: Path, stage: str) -> dict[str, float]:
    """The numbers of ``plots/<stage>/metrics.json`` under their names in MLflow."""
    return {f"{stage}/{name}": value for name, value in _numbers(files.read_json(plots / stage / "metrics.json"))}


def recorded_run(models: Path) -> dict[str, Any]:
    """What the store says of the model's run: its id, name, parameters, tags, newest metrics, and the history of
    ``loss``.
    """
    with _mlflow():
        client = _client()
        run_id = _find_run(client, _manifest(models))
        if run_id is None:
            raise UserError(f"{shown_uri()}: expected a run of the model in {models}, found none.")
        run = client.get_run(run_id)
        history = sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss"))
        return {
            "id": run_id,
            "name": run.info.run_name,
            "params": run.data.params,
            "tags": run.data.tags,
            "loss": history,
            "metrics": run.data.metrics,
        }


def _client() -> MlflowClient:
    if not os.environ.get("MLFLOW_TRACKING_URI") and not LOCAL_STORE.exists():
        # MLflow builds its tables in many steps and cannot go on from half of them: a kill must leave all or none.
        files.create(
            LOCAL_STORE.resolve(), lambda path: MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        )
    return MlflowClient(tracking_uri=tracking_uri())


def _manifest(models: Path) -> dict[str, Any]:
    found = sorted(models.glob("minigpt-phase18-*.manifest.json"))
    if len(found) != 1:
        raise UserError(
            f"{models}: expected one model with its manifest, found {len(found)}. Make it with: dvc repro train"
        )
    manifest: dict[str, Any] = files.read_json(found[0])
    return manifest


def _experiment(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    local = tracking_uri().startswith("sqlite:")
    return str(
        client.create_experiment(EXPERIMENT, artifact_location=Path("mlruns").resolve().as_uri() if local else None)
    )


def _find_run(client: MlflowClient, manifest: Mapping[str, Any]) -> str | None:
    # The lineage as well: other code may train the same bytes, and that is another run.
    query = f"tags.{HASH_TAG} = '{manifest['files'][manifest['model']]}' and tags.lineage = '{manifest['lineage']}'"
    whole = None
    for run in client.search_runs([_experiment(client)], query):
        if run.info.status == "FINISHED":
            whole = str(run.info.run_id)
        elif run.data.tags.get("owner") == _owner():  # killed while this project was filling it
            client.delete_run(run.info.run_id)
    return whole


def _fill_run(client: MlflowClient, models: Path, plots: Path) -> str:
    manifest = _manifest(models)
    tags = {
        HASH_TAG: manifest["files"][manifest["model"]],
        "lineage": manifest["lineage"],
        "code_digest": manifest["code_digest"],
        "model_file": manifest["model"],
        # What is volatile has its place here, and not in the manifest.
        "owner": _owner(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "mlflow.source.git.commit": _git_commit(),
    }
    run_name = manifest["model"].removesuffix(".safetensors")
    run_id = str(client.create_run(_experiment(client), run_name=run_name, tags=tags).info.run_id)
    now = _now()
    settings = [Param(name, str(value)) for name, value in _leaves(manifest["config"])]
    settings += [Param(name, str(manifest[name])) for name in ("parameters", "config_hash", "data_manifest_sha256")]
    for start in range(0, len(settings), PARAM_BATCH):
        client.log_batch(run_id, params=settings[start : start + PARAM_BATCH])
    metrics = _table(plots / "log.csv", now) + _table(plots / "evaluations.csv", now)
    metrics += [
        Metric(f"train/{name}", value, now, 0) for name, value in _numbers(files.read_json(plots / "metrics.json"))
    ]
    _log(client, run_id, metrics)
    client.log_artifact(run_id, str(models / manifest["model"].replace(".safetensors", ".manifest.json")))
    client.log_artifacts(run_id, str(plots), artifact_path="plots/train")
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _add_results(client: MlflowClient, run_id: str, plots: Path, stage: str) -> None:
    now, recorded = _now(), client.get_run(run_id).data.metrics
    changed = {name: value for name, value in results(plots, stage).items() if recorded.get(name) != value}
    # MLflow's newest value is that of the highest step, whatever the clock says, and of equal steps and times the
    # larger one. So what replaces a value comes at a step after it.
    before = [m.step for name in changed if name in recorded for m in client.get_metric_history(run_id, name)]
    step = max(before, default=-1) + 1
    _log(client, run_id, [Metric(name, value, now, step) for name, value in changed.items()])
    client.log_artifacts(run_id, str(plots / stage), artifact_path=f"plots/{stage}")


def _owner() -> str:
    return f"{platform.node()}:{Path.cwd()}"


def _git_commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _log(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _table(path: Path, now: int) -> list[Metric]:
    """The numbers of a table, each at its row's step."""
    try:
        return [
            Metric(name, float(value), now, int(row["step"]))
            for row in csv.DictReader(files.read_text(path).splitlines())
            for name, value in row.items()
            if name != "step"
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: expected a table of numbers with a step in each row, got {error!r}. Make it again with: "
            "dvc repro train"
        ) from error


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _numbers(value: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(name, float(item)) for name, item in _leaves(value) if isinstance(item, int | float)]


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def _mlflow() -> Iterator[None]:
    """Around every use of MLflow: its own warnings are not ours, and its errors become one clear line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = " ".join(_without_credentials(str(error)).split())[:300]
        raise UserError(
            f"MLflow at {shown_uri()}: {reason}. The stage's results are on disk; mend the store (or unset "
            "MLFLOW_TRACKING_URI) and run dvc repro again."
        ) from error
