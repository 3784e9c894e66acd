"""MLflow: a run for each training and experiment, filled from the files, and again whenever its store is lost.

That its curves, results and files are those on disk: proofs/mlflow_server.py, in short in test_proofs.py.
"""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import model_file, refused, run_python, run_stage
from gate import change_json, manifest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from minitrain import mlflow_store, tracking
from minitrain.base import layout
from proofs.project import make_repository, set_params

STAGES = layout.STAGES[1:]


@pytest.fixture
def project(whole, monkeypatch):
    """What a run of all stages left. The store was copied with it, so what is logged here is an experiment of its own."""
    monkeypatch.chdir(whole)
    return whole


@pytest.fixture
def ready(untrained, monkeypatch):
    """A project before its training."""
    monkeypatch.chdir(untrained)
    return untrained


def runs() -> dict[str, Run]:
    """The runs in the store of this folder, by name."""
    client = MlflowClient(mlflow_store.tracking_uri())
    found = client.search_runs([client.get_experiment_by_name(mlflow_store.EXPERIMENT).experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def the_run() -> Run:
    (run,) = runs().values()
    return run


def points(run: Run, metric: str) -> list[tuple[int, float, int]]:
    """Step, value and time of a curve."""
    history = MlflowClient(mlflow_store.tracking_uri()).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in history)


# --- what is logged ------------------------------------------------------------------------------------


def test_the_command_fills_a_store_from_the_files_and_twice_makes_no_double(project):
    project = project.rename(project.with_name("a%2Fb?"))  # no address would hold it as it is
    first, second = (run_python(project, "-m", "minitrain.tracking") for _ in range(2))
    run = the_run()
    assert second.stdout == f"MLflow: runs:/{run.info.run_id} in {mlflow_store.shown_uri()}\n"
    here = f"{project.as_uri()}/mlruns"
    assert first.stdout == (
        f"note: mlflow.db comes from another place; from now on its artifacts are in {here}\n{second.stdout}"
    )
    assert (first.stderr, second.stderr) == ("", "")
    assert run.info.artifact_uri == f"{here}/{run.info.run_id}/artifacts"
    assert (run.info.run_name, run.info.status) == (model_file(project).stem, "FINISHED")
    curves, headlines = {"loss", "lr", "grad_norm", "val_loss"}, {"best_step", "val_ppl", "drift"}
    assert set(run.data.metrics) == curves | headlines | {"test_ppl", "test_ratio", "val_ratio"}
    assert [step for step, *_ in points(run, "val_loss")] == [0, 8, 16, 24]
    assert (run.data.params["train.steps"], run.data.params["ngram.alpha"]) == ("24", "0.01")
    assert run.data.tags["model_sha256"] == json.loads(manifest(project).read_text())["files"][model_file(project).name]
    assert run.data.tags["times"] == "not known: filled from files"


def test_a_run_says_what_came_out_and_on_which_data_and_the_page_of_runs_shows_it(project):
    tracking.log_run(STAGES, {})
    run = the_run()
    validation, test, drift = run.data.tags["mlflow.note.content"].split("\n\n")
    assert f"{run.data.metrics['val_ppl']:.4f}, at the best step, {run.data.metrics['best_step']:.0f}." in validation
    assert test.startswith("Test perplexity ")
    assert drift.startswith("With fp16 ")
    (used,) = run.inputs.dataset_inputs
    summary = json.loads((project / "data/batches/summary.json").read_text())
    assert summary["data_manifest_sha256"].startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile) == summary["splits"]
    tags = MlflowClient(mlflow_store.tracking_uri()).get_experiment_by_name(mlflow_store.EXPERIMENT).tags
    for column in json.loads(json.loads(tags["mlflow.sharedViewState.results"])["state"])["selectedColumns"]:
        kind, name = column.replace("`", "").split(".")
        assert name in getattr(run.data, kind)


def test_other_results_replace_those_that_were_logged(project):
    for value in (20.5, 30.5, 1.5, 30.5):
        change_json(project / "plots/baseline-compare/metrics.json", lambda m, to=value: m.update(test_ppl=to))
        tracking.log_run(["train", "baseline-compare"], {})
        run, _ = tracking.recorded_run()
        assert run.data.metrics["test_ppl"] == value
        assert f"Test perplexity {value:.4f}" in run.data.tags["mlflow.note.content"]


# --- times ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "speeds_at", "says"), [(0, [8, 16, 24], "measured"), (10, [24], "measured from step 10 on")]
)
def test_a_training_has_the_times_of_the_steps_that_this_process_took(project, first, speeds_at, says):
    began, step = 1_000_000.0, 0.25
    tracking.log_run(["train"], {n: began + step * n for n in range(first, 25)})
    run = the_run()
    at = [(began + step * max(n, first)) * 1000 for n in range(25)]
    assert (run.info.start_time, run.info.end_time) == (at[0], at[-1])
    assert [time for *_, time in points(run, "loss")] == at[1:]
    assert [time for *_, time in points(run, "val_loss")] == at[::8]
    train = json.loads(Path("data/batches/summary.json").read_text())["splits"]["train"]
    speed = pytest.approx(32 * train["targets"] / train["sequences"] / step)
    assert [point[:2] for point in points(run, "tokens_per_second")] == [(n, speed) for n in speeds_at]
    assert run.data.tags["times"] == says


def test_the_stage_measures_them(ready):
    assert run_stage(ready, "train").returncode == 0
    times = [time for *_, time in points(the_run(), "loss")]
    assert times == sorted(times)
    assert the_run().data.tags["times"] == "measured"


# --- experiments ---------------------------------------------------------------------------------------


def test_an_experiment_has_a_run_of_its_name_with_what_was_changed_and_the_commit(project, monkeypatch):
    make_repository(project)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    stem = model_file(project).stem
    tracking.log_run(STAGES, {})
    set_params(project, {"ngram.alpha": 0.02, "ngram.max_order": 5})  # the same model
    for name in ("fewer-grams", "fewer-grams", "again"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        tracking.log_run(STAGES, {})
    monkeypatch.delenv("DVC_EXP_NAME")
    tracking.log_run(STAGES, {})  # as after dvc exp apply: it has a run
    changed = "ngram.max_order=5 ngram.alpha=0.02"
    found = {name: run.data.tags["changed"] for name, run in runs().items()}
    assert found == {stem: "nothing", "fewer-grams": changed, "again": changed}
    assert {run.data.tags["mlflow.source.git.commit"] for run in runs().values()} == {commit}


# --- trainings that fail ---------------------------------------------------------------------------------


def test_a_training_that_diverges_stops_in_one_line_and_is_recorded_with_its_curve_and_once(ready):
    set_params(ready, {"train.lr": 1e6, "train.clip_norm": 1e6, "train.warmup_steps": 1})
    for _ in range(2):
        message = refused(run_stage(ready, "train"))
    assert "A lower train.lr may help." in message
    assert "The last checkpoint before: checkpoints/" in message
    assert not Path("models").exists()
    run = the_run()
    assert run.info.status == "FAILED"
    assert f"error: {run.data.tags['mlflow.note.content']}" == message
    assert [step for step, *_ in points(run, "loss")] == [0]
