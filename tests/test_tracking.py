"""MLflow: filled from the files, once, and again whenever its store is lost."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import edit
from mlflow.exceptions import MlflowException

from minitrain import tracking
from minitrain.base import formats
from minitrain.base.errors import UserError
from minitrain.base.layout import STAGES


@pytest.fixture
def store(ran, tmp_path, monkeypatch):
    """A run's files, with an empty store elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store.db")
    return ran[0]


def test_the_default_store_is_absolute(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert tracking.tracking_uri() == "http://server"


@pytest.mark.parametrize("name", ["50%", "what?", "quo'te"])
def test_a_folder_that_no_uri_can_name_is_refused(monkeypatch, tmp_path, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="Rename the folder, or set MLFLOW_TRACKING_URI"):
        tracking.tracking_uri()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/path", "http://host:5000/path"),
        ("https://secret@host", "https://host"),
        ("https://:secret@host", "https://host"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://host/db"),
        ("http://host:5000/a", "http://host:5000/a"),
        ("http://host/a@b", "http://host/a@b"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_a_uri_is_shown_without_its_credentials(monkeypatch, uri, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking.shown_uri() == shown
    assert tracking.tracking_uri() == uri


@pytest.mark.parametrize("uri", ["http://me:secret@127.0.0.1:1", "nonsense://me:secret@host", "mysql+no://me:secret@h"])
def test_an_error_has_no_credentials_in_it(store, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="MLflow at ") as error:
        tracking.log_run(store / "models", store / "plots", ["train"])
    assert "secret" not in str(error.value)


def test_an_exception_that_repeats_the_uri_is_shown_without_its_credentials(store, monkeypatch):
    uri = "http://me:secret@host"

    def fail():
        raise MlflowException(f"{'x' * 282} {uri}/api failed, asked {uri}")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(tracking, "_client", fail)
    with pytest.raises(UserError, match=r"MLflow at http://host: x* http://host/api") as error:
        tracking.log_run(store / "models", store / "plots", ["train"])
    assert "secret" not in str(error.value)


def test_a_stage_prints_where_the_run_is_without_credentials(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    monkeypatch.setattr(tracking, "_client", lambda: None)
    monkeypatch.setattr(tracking, "_find_run", lambda *args: "1")
    tracking.log_or_say_why_not([])
    assert capsys.readouterr().out == "MLflow: runs:/1 in http://host\n"


def test_a_stage_whose_store_cannot_be_reached_says_so_and_goes_on(store, monkeypatch, capsys):
    monkeypatch.chdir(store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    line = tracking.log_or_say_why_not(["train"])
    assert line.startswith("note: MLflow at nonsense://x: ")
    assert line.endswith("then log them with: make log-run")
    assert capsys.readouterr().out == line + "\n"


def test_the_command_logs_everything_that_is_on_disk(store, run, tmp_path):
    result = run(store, "minitrain.tracking", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/store.db")
    assert result.returncode == 0, result.stderr
    recorded, losses = tracking.recorded_run(store / "models")
    assert f"runs:/{recorded.info.run_id} in sqlite:///" in result.stdout
    assert len(losses) == 24
    assert tracking.results(store / "plots", STAGES[1:]).items() <= recorded.data.metrics.items()


def test_a_driver_that_is_not_installed_is_one_clear_error(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://localhost/mlflow")
    with pytest.raises(UserError, match="MLflow at postgresql://localhost/mlflow: No module named"):
        tracking.log_run(store / "models", store / "plots", ["train"])


def test_a_lost_store_is_filled_again_from_the_files_and_only_once(store):
    models, plots = store / "models", store / "plots"
    line = tracking.log_run(models, plots, ["train"])
    assert tracking.log_run(models, plots, ["train"]) == line
    recorded, losses = tracking.recorded_run(models)
    manifest = json.loads(next(models.glob("*.manifest.json")).read_text())
    assert line == f"MLflow: runs:/{recorded.info.run_id} in {tracking.shown_uri()}"
    assert recorded.info.run_name == manifest["model"].removesuffix(".safetensors")
    assert recorded.data.params["train.steps"] == "24"
    assert recorded.data.params["model.d_model"] == "64"
    assert recorded.data.tags["model_sha256"] == manifest["files"][manifest["model"]]
    assert recorded.data.tags["inputs_digest"] == manifest["inputs_digest"]
    rows = csv.DictReader((plots / "train/log.csv").read_text().splitlines())
    assert losses == [(int(row["step"]), float(row["loss"])) for row in rows]
    assert {"lr", "grad_norm", "val_loss", "val_perplexity", "train/best_step"} <= set(recorded.data.metrics)


def test_later_stages_add_to_the_same_run(store):
    models, plots = store / "models", store / "plots"
    tracking.log_run(models, plots, ["train", "baseline-compare"])
    metrics = tracking.recorded_run(models)[0].data.metrics
    left = json.loads((plots / "baseline-compare/metrics.json").read_text())
    assert metrics["baseline-compare/val.model_ppl"] == left["val"]["model_ppl"]
    assert metrics["baseline-compare/test.kneser_ney.4"] == left["test"]["kneser_ney"]["4"]
    artifacts = {path.name for path in Path("mlruns").rglob("*") if path.is_file()}
    assert {"perplexity_vs_n.png", "log.csv"} <= artifacts
    assert any(name.endswith(".manifest.json") for name in artifacts)


def test_a_picture_that_was_drawn_later_replaces_the_one_before(store, tmp_path):
    """When the training ends, plots/train may still have the picture of the run before."""
    models, plots = store / "models", tmp_path / "plots"
    shutil.copytree(store / "plots", plots)
    for content in (b"old", b"new"):
        (plots / "train/loss.png").write_bytes(content)
        tracking.log_run(models, plots, ["train"])
    (logged,) = Path("mlruns").rglob("loss.png")
    assert logged.read_bytes() == b"new"


def test_results_of_another_experiment_are_replaced_whatever_the_clock_says(store, tmp_path, monkeypatch):
    """MLflow takes the larger of two values that have the same step and time, and the later of two times."""
    models, plots, stage = store / "models", tmp_path / "plots", "baseline-compare"
    shutil.copytree(store / "plots", plots)
    path, clock = plots / stage / "metrics.json", [5_000]
    monkeypatch.setattr(tracking, "_now", lambda: clock[0])
    tracking.log_run(models, plots, ["train", stage])
    for value, now in ((30.5, 5_000), (1.5, 5_000), (30.5, 4_000), (1.5, 3_000)):
        clock[0] = now
        metrics = json.loads(path.read_text())
        metrics["val"]["model_ppl"] = value
        path.write_bytes(formats.json_bytes(metrics))
        tracking.log_run(models, plots, ["train", stage])
        recorded = tracking.recorded_run(models)[0].data.metrics
        assert recorded["baseline-compare/val.model_ppl"] == value
        assert tracking.results(plots, [stage]).items() <= recorded.items()


def test_a_store_that_was_being_made_when_the_process_died_is_made_again(root, store, tmp_path, monkeypatch):
    """MLflow cannot go on from half of its tables, so the store appears whole or not at all."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(root)!r})
from minitrain import tracking
real = tracking.MlflowClient
def dies(tracking_uri):
    real(tracking_uri=tracking_uri)
    os.kill(os.getpid(), signal.SIGKILL)
tracking.MlflowClient = dies
tracking.log_run(Path({str(store)!r}) / "models", Path({str(store)!r}) / "plots", ["train"])
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.db")) == []
    assert len(list(tmp_path.glob(".mlflow.db.*.tmp"))) == 1
    tracking.log_run(store / "models", store / "plots", ["train"])
    assert [path.name for path in tmp_path.glob("*mlflow.db*")] == ["mlflow.db"]
    assert len(tracking.recorded_run(store / "models")[1]) == 24


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("\n0,4.", "\n0,x.", r"log\.csv: expected a table of numbers .*could not convert string to float: 'x\."),
        ("step", "steps", r"log\.csv: .*KeyError\('step'\)"),
        ("\n0,4.", "\n0\n1,4.", r"log\.csv: .*TypeError"),
    ],
)
def test_a_table_that_is_none_is_one_clear_error(store, tmp_path, old, new, error):
    plots = shutil.copytree(store / "plots", tmp_path / "plots")
    edit(plots / "train/log.csv", {old: new})
    with pytest.raises(UserError, match=error):
        tracking.log_run(store / "models", plots, ["train"])


def test_a_run_killed_while_it_was_filled_does_not_count(store, monkeypatch):
    models, plots = store / "models", store / "plots"
    with monkeypatch.context() as patch:

        def fail(*_):
            raise KeyboardInterrupt

        patch.setattr(tracking, "_log", fail)
        with pytest.raises(KeyboardInterrupt):
            tracking.log_run(models, plots, ["train"])
    with pytest.raises(UserError, match="expected a run of the model"):
        tracking.recorded_run(models)
    tracking.log_run(models, plots, ["train"])
    assert len(tracking.recorded_run(models)[1]) == 24


def test_an_unreadable_store_is_one_clear_error(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    with pytest.raises(UserError, match="MLflow at nonsense://x"):
        tracking.log_run(store / "models", store / "plots", ["train"])
