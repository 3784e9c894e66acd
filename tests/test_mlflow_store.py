"""MLflow's store: where it is, how processes share it, and one clear error when it cannot be used."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from conftest import run_python
from store import runs, with_store

from minitrain import mlflow_store, tracking
from minitrain.base import UserError


@pytest.fixture
def project(whole, monkeypatch):
    """What a run of all stages left, and an empty store."""
    return with_store(whole, monkeypatch)


@pytest.mark.parametrize(
    ("folder", "root", "expected"),
    [(".", None, "."), (".dvc/tmp/exps/tmp1", ".", "."), ("elsewhere", ".", "elsewhere")],
)
def test_the_store_is_in_the_project_and_not_in_a_temporary_folder_of_dvc(
    tmp_path, monkeypatch, folder, root, expected
):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    if root:
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / root))
    assert mlflow_store.tracking_uri() == f"sqlite:///{tmp_path / expected}/mlflow.db"


def test_two_experiments_that_end_together_make_one_store(project):
    Path("mlflow.db").unlink()
    names = ("one", "two", "three")
    command = [sys.executable, "-m", "minitrain.tracking"]
    started = [
        subprocess.Popen(command, env={**os.environ, "DVC_EXP_NAME": name}, stderr=subprocess.PIPE, text=True)
        for name in names
    ]
    errors = [process.communicate()[1] for process in started]
    assert ([process.returncode for process in started], errors) == ([0] * 3, [""] * 3)
    assert set(runs()) == set(names)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:secret@127.0.0.1:1",
        "nonsense://me:secret@host",
        "mysql+no://me:secret@h",
        "postgresql://me:secret@localhost/mlflow",
    ],
)
def test_a_store_that_cannot_be_used_is_one_clear_error_without_credentials(project, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"^MLflow in the store that MLFLOW_TRACKING_URI names: \w+ \(") as error:
        tracking.log_run(["train"], {})
    assert "secret" not in str(error.value)
    assert str(error.value).endswith("then log them with: make log-run")


def test_an_experiment_in_a_temporary_folder_says_how_to_get_its_files_first(project, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(project, tmp_path / ".dvc/tmp/exps/tmp1"))
    for name, value in {
        "DVC_ROOT": str(tmp_path),
        "DVC_EXP_NAME": "mine",
        "MLFLOW_TRACKING_URI": "nonsense://",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"then log them with: dvc exp apply mine, then make log-run$"):
        tracking.log_run(["train"], {})


DIES = """
import os, signal
from minitrain import mlflow_store, tracking
real = mlflow_store.MlflowClient
def dies(tracking_uri):
    real(tracking_uri)
    os.kill(os.getpid(), signal.SIGKILL)
mlflow_store.MlflowClient = dies
tracking.log_run(["train"], {})
"""


def test_a_store_that_was_being_made_when_the_process_died_is_made_again(project):
    """MLflow cannot go on from half of its tables, so the store appears whole or not at all."""
    Path("mlflow.db").unlink()
    assert run_python(project, "-c", DIES).returncode == -signal.SIGKILL
    assert list(project.glob("*.db")) == []
    assert len(list(project.glob(".mlflow.db.tmp"))) == 1
    tracking.log_run(["train"], {})
    assert [path.name for path in project.glob("*mlflow.db*")] == ["mlflow.db"]
    assert len(tracking.recorded_run()[1]) == 24


def test_a_run_killed_while_it_was_filled_does_not_count(project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_curves", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tracking.log_run(["train"], {})
    with pytest.raises(UserError, match="expected a run of the model"):
        tracking.recorded_run()
    tracking.log_run(["train"], {})
    assert len(tracking.recorded_run()[1]) == 24
