"""What goes to MLflow: only what the pipeline made, into this project's store, and no password to where it can be read."""

import logging
import shutil
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
def at(whole, monkeypatch):
    """A project that is ready to be logged, with an empty store; the working folder is there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(whole)
    shutil.rmtree("mlruns")
    Path("mlflow.db").unlink()
    return whole


def log() -> str:
    return tracking.log_run(STAGES[1:], {})


# --- foreign files -------------------------------------------------------------------------------------


def model_called(name: str):
    return lambda: change_json(manifest(Path()), lambda content: content.update(model=name))


def link(path: str, target: str):
    def replace():
        Path(path).rename(target)
        Path(path).symlink_to(Path(target).resolve())

    return replace


FOREIGN = {
    "a model of another name": (
        model_called("minigpt-phase18-0.safetensors"),
        "key 'model': expected minigpt-phase18-",
    ),
    "a model by its path": (model_called("/etc/passwd"), "key 'model': expected minigpt-phase18-.*'/etc/passwd'"),
    "a model in the folder above": (model_called("../x.safetensors"), "key 'model': expected minigpt-phase18-"),
    "a damaged model": (lambda: model_file(Path()).write_bytes(b"x"), "expected the sha256"),
    "a model of other parameters": (
        lambda: edit(Path("params.yaml"), {"n_heads: 4": "n_heads: 2"}),
        "config of params",
    ),
    "a table that is a link": (
        link("plots/train/log.csv", "mine.csv"),
        "log.csv: expected a file, got a link to",
    ),
    "a folder that is a link": (
        link("plots/fp16-drift", "mine"),
        "plots/fp16-drift/.*: expected a file, got a link to",
    ),
    "models that are a link": (link("models", "mine"), r"models/.*\.safetensors: expected a file, got a link to"),
    "plots that are a link": (link("plots", "mine"), "plots/train/.*: expected a file, got a link to"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_the_pipeline_did_not_make_is_refused_before_anything_is_logged(at, what):
    change, message = FOREIGN[what]
    change()
    with pytest.raises(UserError, match=message):
        log()
    assert not Path("mlruns").exists()
    assert not Path("mlflow.db").exists()


def test_only_files_that_dvc_yaml_names_are_logged(at):
    (at / "mine.txt").write_text("mine")
    (at / "plots/train/mine.txt").write_text("mine")
    (at / "plots/train/link.txt").symlink_to(at / "mine.txt")
    log()
    (artifacts,) = at.glob("mlruns/*/artifacts")
    made = {f"plots/{name}" for name in tree(at / "plots") if not name.endswith((".txt", "lengths.csv"))}
    made -= {"plots/shard-to-batches/counts.json"}
    assert set(tree(artifacts)) == made | {f"models/{path.name}" for path in (manifest(at), model_file(at))}


# --- a project that is copied or moved ----------------------------------------------------------------------


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_project_that_is_copied_or_moved_keeps_its_artifacts_inside(at, tmp_path, monkeypatch, how):
    log()
    before = tree(at, "mlruns", "plots")
    there = tmp_path / "there"
    how(at, there)
    change_json(there / "plots/train/metrics.json", lambda metrics: metrics.update(best_step=25))
    first, second = (run_python(there, "-m", "minitrain.tracking", MLFLOW_TRACKING_URI="").stdout for _ in range(2))
    note = f"note: mlflow.db comes from another place; from now on its artifacts are in {there.as_uri()}/mlruns\n"
    assert first == note + second
    if how is shutil.copytree:
        assert tree(at, "mlruns", "plots") == before
    assert at.exists() == (how is shutil.copytree)
    monkeypatch.chdir(there)
    run, _ = tracking.recorded_run()
    artifacts = there / "mlruns" / run.info.run_id / "artifacts"
    assert run.info.artifact_uri == artifacts.as_uri()
    assert tree(artifacts, "plots").items() <= tree(there).items()


def test_an_experiment_that_was_deleted_in_mlflow_is_restored(at):
    line = log()
    client = MlflowClient(mlflow_store.tracking_uri())
    client.delete_experiment(client.get_experiment_by_name(mlflow_store.EXPERIMENT).experiment_id)
    assert log() == line


# --- passwords -----------------------------------------------------------------------------------------------

SECRETS = (
    f"http://bob:{SECRET}@host:5000/path",
    f"http://host/?password={SECRET}",
    f"postgresql://me:se/{SECRET}@et@host/db",
    f"http://me:{SECRET}@ho\u2100st",  # urllib's message repeats it
    f"sqlite:////tmp/nowhere/mlflow.db?password={SECRET}",
    f"bob:{SECRET}@host",
)


@pytest.mark.parametrize("uri", SECRETS)
def test_no_librarys_message_or_log_shows_the_secret_of_an_address(at, monkeypatch, capfd, uri):
    """A driver may repeat the address that it could not reach, whole or the part that it takes for the host."""

    def fail():
        logging.getLogger("mlflow.store.db.utils").critical("no connection to %s", uri)
        raise MlflowException(f"no connection to {uri}, host {SECRET}") from OSError(f"{SECRET} not found")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(tracking, "open_store", fail)
    tracking.try_to(tracking.log_run, ["train"], {})
    printed, errors = capfd.readouterr()
    assert printed.startswith(f"note: MLflow in {mlflow_store.shown_uri()}: ")
    assert printed.endswith("then log them with: make log-run\n")
    assert errors == ""
    assert SECRET not in printed


def test_mlflow_does_not_print_the_address_of_a_run(monkeypatch, capfd):
    """It does so at the end of each run on a server, the password included."""
    monkeypatch.setattr(RestStore, "get_run", lambda *_: pytest.fail("asked for what to print"))
    monkeypatch.setattr(RestStore, "update_run_info", lambda *_, **__: None)
    tracking.MlflowClient(f"http://me:{SECRET}@host").set_terminated("1", RunStatus.to_string(RunStatus.FINISHED))
    assert capfd.readouterr() == ("", "")
