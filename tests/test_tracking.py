"""MLflow: filled from the files, once, and again whenever its store is lost."""

import csv
import json
import shutil
import signal
import warnings
from pathlib import Path
from unittest import mock

import pytest
from conftest import run_python
from gate import change_json
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from minitrain import tracking
from minitrain.base.errors import UserError
from minitrain.base.layout import STAGES


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """MLflow takes a second to build its tables: once is enough."""
    path = tmp_path_factory.mktemp("empty") / "store.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(ran, empty_store, tmp_path, monkeypatch):
    """A run's files, with an empty store elsewhere."""
    shutil.copy(empty_store, tmp_path / "store.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    return ran


def log(project: Path, *stages: str) -> str:
    return tracking.log_run(project / "models", project / "plots", stages)


def recorded(project: Path) -> tuple[Run, list[tuple[int, float]]]:
    return tracking.recorded_run(project / "models")


def test_the_default_store_is_absolute(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:secret@127.0.0.1:1",
        "nonsense://me:secret@host",
        "mysql+no://me:secret@h",
        "postgresql://me:secret@localhost/mlflow",
    ],
)
def test_a_store_that_cannot_be_used_is_one_clear_error_without_credentials(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"^MLflow in the store that MLFLOW_TRACKING_URI names: \w+ \(") as error:
        log(store, "train")
    assert "secret" not in str(error.value)


def test_the_command_logs_everything_that_is_on_disk(store, tmp_path):
    result = run_python(store, "-m", "minitrain.tracking", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/store.db")
    run, losses = recorded(store)
    assert (
        result.returncode,
        f"runs:/{run.info.run_id} in the store that MLFLOW_TRACKING_URI names" in result.stdout,
    ) == (0, True), result.stderr
    assert len(losses) == 24
    assert tracking.results(store / "plots", STAGES[1:]).items() <= run.data.metrics.items()


def test_a_lost_store_is_filled_again_from_the_files_and_only_once(store):
    line = log(store, "train")
    assert log(store, "train", "baseline-compare") == line  # a later stage adds to the same run
    run, losses = recorded(store)
    manifest = json.loads(next((store / "models").glob("*.manifest.json")).read_text())
    assert line == f"MLflow: runs:/{run.info.run_id} in {tracking.shown_uri()}"
    assert run.info.run_name == manifest["model"].removesuffix(".safetensors")
    assert (run.data.params["train.steps"], run.data.params["model.d_model"]) == ("24", "64")
    digests = {"model_sha256": manifest["files"][manifest["model"]], "inputs_digest": manifest["inputs_digest"]}
    assert digests.items() <= run.data.tags.items()
    rows = csv.DictReader((store / "plots/train/log.csv").read_text().splitlines())
    assert losses == [(int(row["step"]), float(row["loss"])) for row in rows]
    assert {"lr", "grad_norm", "val_loss", "best_step"} <= set(run.data.metrics)
    left = json.loads((store / "plots/baseline-compare/scores.json").read_text())
    assert run.data.metrics["test_ppl"] == left["test"]["model_ppl"]
    artifacts = {path.name for path in Path("mlruns").rglob("*") if path.is_file()}
    assert {"perplexity_vs_n.png", "log.csv", manifest["model"].replace(".safetensors", ".manifest.json")} <= artifacts


def test_the_picture_of_the_training_is_logged_with_the_stage_that_draws_it(store, whole):
    """When the training ends, plots/train may still have the picture of the run before."""
    log(whole, "train")
    assert list(Path("mlruns").rglob("loss.png")) == []
    for content in (b"old", b"new"):
        (whole / "plots/train/loss.png").write_bytes(content)
        log(whole, "baseline-compare")
        (logged,) = Path("mlruns").rglob("loss.png")
        assert logged.read_bytes() == content


def test_results_of_another_experiment_are_replaced_whatever_the_clock_says(store, whole, monkeypatch):
    """MLflow takes the larger of two values that have the same step and time, and the later of two times."""
    stage = "baseline-compare"
    for value, now in ((20.5, 5_000), (30.5, 5_000), (1.5, 5_000), (30.5, 4_000), (1.5, 3_000)):
        monkeypatch.setattr(tracking, "_now", lambda now=now: now)
        change_json(whole / "plots" / stage / "metrics.json", lambda m, to=value: m.update(test_ppl=to))
        log(whole, "train", stage)
        metrics = recorded(whole)[0].data.metrics
        assert metrics["test_ppl"] == value
        assert tracking.results(whole / "plots", [stage]).items() <= metrics.items()


DIES = """
import os, signal
from minitrain import tracking
from minitrain.base import layout
real = tracking.MlflowClient
def dies(tracking_uri):
    real(tracking_uri=tracking_uri)
    os.kill(os.getpid(), signal.SIGKILL)
tracking.MlflowClient = dies
tracking.log_run(layout.MODELS, layout.PLOTS, ["train"])
"""


def test_a_store_that_was_being_made_when_the_process_died_is_made_again(whole, monkeypatch):
    """MLflow cannot go on from half of its tables, so the store appears whole or not at all."""
    monkeypatch.chdir(whole)
    Path("mlflow.db").unlink()
    assert run_python(whole, "-c", DIES).returncode == -signal.SIGKILL
    assert list(whole.glob("*.db")) == []
    assert len(list(whole.glob(".mlflow.db.tmp"))) == 1
    log(whole, "train")
    assert [path.name for path in whole.glob("*mlflow.db*")] == ["mlflow.db"]
    assert len(recorded(whole)[1]) == 24


def test_a_run_killed_while_it_was_filled_does_not_count(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_log", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            log(store, "train")
    with pytest.raises(UserError, match="expected a run of the model"):
        recorded(store)
    log(store, "train")
    assert len(recorded(store)[1]) == 24
