"""MLflow's store: where it is, what goes there, and what becomes of it. No password where it can be read.

What a real server, and experiments that end together, get: proofs/mlflow_server.py.
"""

import logging
import shutil
import signal
from pathlib import Path

import pytest
from conftest import edit, model_file, run_python
from gate import change_json, manifest
from mlflow.entities import RunStatus
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.rest_store import RestStore
from mlflow.tracking import MlflowClient

from minitrain import mlflow_store, tracking
from minitrain.base import UserError
from minitrain.base.layout import STAGES
from proofs.project import tree

SECRET = "s3cret"


@pytest.fixture
def project(whole, monkeypatch):
    """What a run of all stages left, none of it in MLflow; the working folder is there."""
    monkeypatch.chdir(whole)
    shutil.rmtree("mlruns")
    return whole


def log() -> str:
    return tracking.log_run(STAGES[1:], {})


# --- where it is ---------------------------------------------------------------------------------------


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


def test_an_experiment_that_was_deleted_in_mlflow_is_restored(project):
    line = log()
    client = MlflowClient(mlflow_store.tracking_uri())
    client.delete_experiment(client.get_experiment_by_name(mlflow_store.EXPERIMENT).experiment_id)
    assert log() == line


KILLED_IN = """
import os, signal
from minitrain import mlflow_store, tracking
real = {name}
def killed(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
{name} = killed
tracking.log_run(["train"], {{}})
"""


@pytest.mark.parametrize("name", ["mlflow_store.MlflowClient", "tracking._curves"])
def test_a_store_or_a_run_that_was_half_made_at_a_kill_does_not_count(project, name):
    """MLflow cannot go on from half of its tables: the store appears whole or not at all."""
    Path("mlflow.db").unlink()
    assert run_python(project, "-c", KILLED_IN.format(name=name)).returncode == -signal.SIGKILL
    assert Path("mlflow.db").exists() == (name == "tracking._curves")
    with pytest.raises(UserError, match="expected a run of the model"):
        tracking.recorded_run()
    log()
    assert len(tracking.recorded_run()[1]) == 24


# --- foreign files -------------------------------------------------------------------------------------


def link(path: str) -> None:
    Path(path).rename("mine")
    Path(path).symlink_to(Path("mine").resolve())


def folder(path: str) -> None:
    Path(path).unlink()
    Path(path).mkdir()


FOREIGN = {
    "a model by its path": (
        lambda: change_json(manifest(Path()), lambda content: content.update(model="/etc/passwd")),
        "key 'model': expected minigpt-phase18-.*'/etc/passwd'",
    ),
    "a damaged model": (lambda: model_file(Path()).write_bytes(b"x"), "expected the sha256"),
    "a model of other parameters": (
        lambda: edit(Path("params.yaml"), {"n_heads: 4": "n_heads: 2"}),
        "config of params",
    ),
    "a model of another training": (
        lambda: edit(Path("params.yaml"), {"lr: 0.003": "lr: 0.002"}),
        r"^params\.yaml: not as models/.* was trained\. Train first: dvc repro train",
    ),
    "a table that is a link": (lambda: link("plots/train/log.csv"), "log.csv: expected a file, got a link"),
    "a folder that is a link": (lambda: link("plots/fp16-drift"), "fp16-drift/.*: expected a file, got a link"),
    "a table that is a folder": (lambda: folder("plots/train/log.csv"), "log.csv: expected a file, got a link, folder"),
    "models that are a link": (lambda: link("models"), r"models/.*\.safetensors: expected a file, got a link"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_the_pipeline_did_not_make_is_refused_before_anything_is_logged(project, what):
    change, message = FOREIGN[what]
    change()
    with pytest.raises(UserError, match=message):
        log()
    assert not Path("mlruns").exists()


def test_only_files_that_dvc_yaml_names_are_logged(project):
    (project / "plots/train/mine.txt").write_text("mine")
    (project / "plots/train/link.txt").symlink_to(project / "plots/train/mine.txt")
    (project / ".gitconfig").write_text("a password")
    edit(
        project / "dvc.yaml",
        {
            "plots/baseline-compare/cells.csv: {": ".gitconfig: {cache: false}\n      - plots/baseline-compare/cells.csv: {"
        },
    )
    log()
    (artifacts,) = project.glob("mlruns/*/artifacts")
    of_first_stage = {"plots/shard-to-batches/counts.json", "plots/shard-to-batches/lengths.csv"}  # it is not logged
    made = {f"plots/{name}" for name in tree(project / "plots") if not name.endswith(".txt")} - of_first_stage
    assert set(tree(artifacts)) == made | {f"models/{path.name}" for path in (manifest(project), model_file(project))}


# --- passwords -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", [None, "mine"])
@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@127.0.0.1:1",
        f"nonsense://me:{SECRET}@host",
        f"mysql+no://me:{SECRET}@h",
        f"postgresql://me:{SECRET}@localhost/mlflow",
    ],
)
def test_a_store_that_cannot_be_used_is_one_clear_error_without_credentials(
    project, tmp_path, monkeypatch, uri, experiment
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    first = ""
    if experiment:  # in a temporary folder, whose files DVC brings back first
        monkeypatch.chdir(shutil.copytree(project, tmp_path / ".dvc/tmp/exps/tmp1"))
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
        first = "dvc exp apply mine, then "
    with pytest.raises(UserError, match=r"^MLflow in the store that MLFLOW_TRACKING_URI names: \w+ \(") as error:
        log()
    assert SECRET not in str(error.value)
    assert str(error.value).endswith(f"then log them with: {first}make log-run")


@pytest.mark.parametrize("uri", [f"postgresql://me:se/{SECRET}@et@host/db", f"bob:{SECRET}@host"])
def test_no_librarys_message_or_log_shows_the_secret_of_an_address(project, monkeypatch, capfd, uri):
    """A driver may repeat the address that it could not reach, whole or the part that it takes for the host."""

    def fail():
        logging.getLogger("mlflow.store.db.utils").critical("no connection to %s", uri)
        raise MlflowException(f"no connection to {uri}, host {SECRET}") from OSError(f"{SECRET} not found")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(tracking, "open_store", fail)
    tracking.try_to(tracking.log_run, ["train"], {})
    printed, errors = capfd.readouterr()
    assert printed.startswith(f"note: MLflow in {mlflow_store.shown_uri()}: ")
    assert (errors, SECRET in printed) == ("", False)


def test_mlflow_does_not_print_the_address_of_a_run(monkeypatch, capfd):
    """It does so at the end of each run on a server, the password included."""
    monkeypatch.setattr(RestStore, "get_run", lambda *_: pytest.fail("asked for what to print"))
    monkeypatch.setattr(RestStore, "update_run_info", lambda *_, **__: None)
    tracking.MlflowClient(f"http://me:{SECRET}@host").set_terminated("1", RunStatus.to_string(RunStatus.FINISHED))
    assert capfd.readouterr() == ("", "")
