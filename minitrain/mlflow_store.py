"""Where MLflow's store is, how processes share it, and one clear error for all that can go wrong there.

It is ``mlflow.db`` in the project's root, where ``mlflow ui`` looks, with the artifacts in ``mlruns``; unless
``MLFLOW_TRACKING_URI`` names another.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from minitrain.base import UserError, files, layout

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
    from mlflow.tracking import MlflowClient

EXPERIMENT = "minitrain-phase18"
FIX = "Fix the store (or unset MLFLOW_TRACKING_URI)"
# MLflow's list of runs shows neither parameters nor metrics at first. This is a view of it, as its page saves one.
CHANGED, *RESULTS = ("tags.`changed`", "metrics.`val_ppl`", "metrics.`test_ppl`", "metrics.`test_ratio`")
COLUMNS = {"selectedColumns": [CHANGED, *RESULTS], "columnOrder": [CHANGED], "columnWidths": {CHANGED: 260}}
VIEW = {"name": "Changes and results", "createdAt": 0, "state": json.dumps(COLUMNS)}


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or the local store at an absolute place: stages may run in a temporary folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _sqlite_uri(_local_store())


def shown_uri() -> str:
    """The store for people and logs; an address that somebody gave may hold a password."""
    local = str(layout.project() / "mlflow.db")
    return "the store that MLFLOW_TRACKING_URI names" if os.environ.get("MLFLOW_TRACKING_URI") else local


def _local_store() -> Path:
    return layout.project().resolve() / "mlflow.db"


def _sqlite_uri(path: Path) -> str:
    return f"sqlite:///{quote(str(path))}"  # a folder may be called a%2Fb or a?b


@contextmanager
def open_store() -> Iterator[MlflowClient]:
    """The store. The local one is for one process at a time: two experiments may end together."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        yield MlflowClient(tracking_uri())
        return
    with files.exclusive_lock(_local_store().with_name("mlruns"), wait=True):
        if not _local_store().exists():
            # MLflow builds its tables in many steps and cannot go on from half of them: a kill must leave all or none.
            files.create(_local_store(), lambda path: MlflowClient(_sqlite_uri(path)).search_experiments())
        yield MlflowClient(tracking_uri())


def experiment_id(client: MlflowClient) -> str:
    """The id of the project's experiment, which is made if need be."""
    here = _local_store().with_name("mlruns").as_uri()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment and not os.environ.get("MLFLOW_TRACKING_URI") and experiment.artifact_location != here:
        # The project was copied or moved, with its store. What was logged keeps its place, new artifacts are here.
        print(f"note: mlflow.db comes from another place; from now on its artifacts are in {here}")
        client.rename_experiment(experiment.experiment_id, f"{EXPERIMENT} at {experiment.artifact_location}")
        experiment = None
    if experiment is None:
        artifacts = here if tracking_uri().startswith("sqlite:") else None
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.sharedViewState.results": json.dumps(VIEW)}
        return str(client.create_experiment(EXPERIMENT, artifact_location=artifacts, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextmanager
def one_clear_error(advice: str) -> Iterator[None]:
    """Around every use of MLflow: its own warnings are not ours, and its errors become one line with this advice."""
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
        raise UserError(f"MLflow in {shown_uri()}: {reason}. {advice}") from error
    finally:
        logging.disable(logging.NOTSET)
