"""What tests of MLflow share: an empty store in a project, and the runs that are in it afterwards."""

import functools
import shutil
import tempfile
import warnings
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from minitrain import mlflow_store


@functools.cache
def empty_store() -> bytes:
    """MLflow takes a second to build its tables: once is enough."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient(f"sqlite:///{folder}/store.db").search_experiments()
        return Path(folder, "store.db").read_bytes()


def with_store(project: Path, monkeypatch) -> Path:
    """The project as the working folder, with an empty store in it."""
    shutil.rmtree(project / "mlruns", ignore_errors=True)
    (project / "mlflow.db").write_bytes(empty_store())
    monkeypatch.chdir(project)
    return project


def runs() -> dict[str, Run]:
    """The runs in the store of this folder, by name."""
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}")
    found = client.search_runs([client.get_experiment_by_name(mlflow_store.EXPERIMENT).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}
