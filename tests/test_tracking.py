"""MLflow: a run for each training and experiment, filled from the files, and again whenever its store is lost."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
from conftest import model_file, refused, run_python, run_stage
from gate import change_json, manifest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from store import runs, with_store

from minitrain import mlflow_store, tracking
from minitrain.base import UserError, layout
from proofs.project import make_repository, set_params, tree

STAGES = layout.STAGES[1:]
CURVES = {"loss", "lr", "grad_norm", "val_loss"}
HEADLINES = {"best_step", "val_ppl", "drift", "test_ppl", "test_ratio", "val_ratio"}
DIVERGES = {"train.lr": 1e6, "train.clip_norm": 1e6, "train.warmup_steps": 1}


@pytest.fixture
def project(whole, monkeypatch):
    """What a run of all stages left, and an empty store."""
    return with_store(whole, monkeypatch)


@pytest.fixture
def ready(untrained, monkeypatch):
    """A project before its training, and an empty store."""
    return with_store(untrained, monkeypatch)


def the_run() -> Run:
    (run,) = runs().values()
    return run


def points(run: Run, metric: str) -> list[tuple[int, float, int]]:
    """Step, value and time of a curve."""
    history = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}").get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in history)


# --- what is logged ------------------------------------------------------------------------------------


def test_the_command_fills_a_store_from_the_files_and_twice_makes_no_double(project):
    first, second = (run_python(project, "-m", "minitrain.tracking") for _ in range(2))
    run = the_run()
    assert first.stdout == second.stdout == f"MLflow: runs:/{run.info.run_id} in {mlflow_store.shown_uri()}\n"
    assert (first.stderr, second.stderr) == ("", "")
    assert (run.info.run_name, run.info.status) == (model_file(project).stem, "FINISHED")
    left = {}
    for stage in ("train", "fp16-drift", "baseline-compare"):
        left |= json.loads((project / "plots" / stage / "metrics.json").read_text())
    assert set(run.data.metrics) == CURVES | HEADLINES
    assert left.items() <= run.data.metrics.items()
    rows = csv.DictReader((project / "plots/train/log.csv").read_text().splitlines())
    assert [point[:2] for point in points(run, "loss")] == [(int(row["step"]), float(row["loss"])) for row in rows]
    assert [step for step, *_ in points(run, "val_loss")] == [0, 8, 16, 24]
    assert (run.data.params["train.steps"], run.data.params["ngram.alpha"]) == ("24", "0.01")
    assert run.data.tags["model_sha256"] == json.loads(manifest(project).read_text())["files"][model_file(project).name]
    artifacts = tree(project / "mlruns" / run.info.run_id / "artifacts")
    for path in (model_file(project), project / "plots/baseline-compare/scores.json", project / "plots/train/log.csv"):
        assert artifacts[path.relative_to(project).as_posix()] == path.read_bytes()


def test_a_run_says_what_came_out_and_on_which_data(project):
    tracking.log_run(STAGES, {})
    run = the_run()
    lines = run.data.tags["mlflow.note.content"].split("\n\n")
    assert [line.split(" ")[0] for line in lines] == ["Validation", "Test", "With"]
    assert f"{run.data.metrics['val_ppl']:.4f}, at the best step, {run.data.metrics['best_step']:.0f}." in lines[0]
    (used,) = run.inputs.dataset_inputs
    summary = json.loads((project / "data/batches/summary.json").read_text())
    assert (used.dataset.name, json.loads(used.dataset.source)) == ("data/shards", {"uri": "data/shards"})
    assert summary["data_manifest_sha256"].startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile) == summary["splits"]


def test_the_page_of_runs_offers_a_view_of_changes_and_results(project):
    tracking.log_run(STAGES, {})
    client = MlflowClient(mlflow_store.tracking_uri())
    tags = client.get_experiment_by_name(mlflow_store.EXPERIMENT).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.results"])["state"])
    assert set(state["columnOrder"]) | set(state["columnWidths"]) <= set(state["selectedColumns"])
    for column in state["selectedColumns"]:
        kind, name = column.replace("`", "").split(".")
        assert name in getattr(the_run().data, kind)


def test_the_picture_of_the_training_is_logged_with_the_stage_that_draws_it(project):
    """When the training ends, plots/train may still have the picture of the run before."""
    tracking.log_run(["train"], {})
    assert list(Path("mlruns").rglob("loss.png")) == []
    for content in (b"old", b"new"):
        Path("plots/train/loss.png").write_bytes(content)
        tracking.log_run(["baseline-compare"], {})
        (logged,) = Path("mlruns").rglob("loss.png")
        assert logged.read_bytes() == content


def test_other_results_replace_those_that_were_logged(project):
    for value in (20.5, 30.5, 1.5, 30.5):
        change_json(project / "plots/baseline-compare/metrics.json", lambda m, to=value: m.update(test_ppl=to))
        tracking.log_run(["train", "baseline-compare"], {})
        run, _ = tracking.recorded_run()
        assert run.data.metrics["test_ppl"] == value
        assert f"Test perplexity {value:.4f}" in run.data.tags["mlflow.note.content"]


# --- times ---------------------------------------------------------------------------------------------


def test_a_training_has_the_times_of_its_steps(project):
    began, step = 1_000_000.0, 0.25
    tracking.log_run(["train"], {n: began + step * n for n in range(25)})
    run = the_run()
    assert (run.info.start_time, run.info.end_time) == (began * 1000, (began + 24 * step) * 1000)
    assert [time for *_, time in points(run, "loss")] == [(began + step * n) * 1000 for n in range(1, 25)]
    assert [time for *_, time in points(run, "val_loss")] == [(began + step * n) * 1000 for n in (0, 8, 16, 24)]
    speeds = points(run, "tokens_per_second")
    assert [n for n, *_ in speeds] == [8, 16, 24]
    train = json.loads(Path("data/batches/summary.json").read_text())["splits"]["train"]
    assert [speed for _, speed, _ in speeds] == pytest.approx([32 * train["targets"] / train["sequences"] / step] * 3)
    assert run.data.tags["times"] == "measured"


def test_a_training_that_went_on_has_the_times_of_its_own_steps(project):
    tracking.log_run(["train"], {n: 1000.0 + n for n in range(10, 25)})
    run = the_run()
    assert [time for *_, time in points(run, "loss")] == [1_010_000] * 10 + [
        1_000_000 + 1000 * n for n in range(11, 25)
    ]
    assert [n for n, *_ in points(run, "tokens_per_second")] == [24]
    assert run.data.tags["times"] == "measured from step 10 on"


def test_the_stage_measures_them(ready):
    assert run_stage(ready, "train").returncode == 0
    run = the_run()
    times = [time for *_, time in points(run, "loss")]
    assert times == sorted(times)
    assert len(set(times)) > 12  # in milliseconds, two steps may have the same
    assert run.info.start_time < times[0] < times[-1] <= run.info.end_time
    assert [n for n, *_ in points(run, "tokens_per_second")] == [8, 16, 24]


def test_a_run_from_the_files_has_the_parameters_of_its_training_no_speed_and_says_so_of_its_times(project):
    tracking.log_run(["train"], {})
    assert the_run().data.params["train.lr"] == "0.003"
    assert "tokens_per_second" not in the_run().data.metrics
    assert the_run().data.tags["times"] == "not known: filled from files"


def test_a_model_that_was_trained_with_other_parameters_is_not_logged_as_if_with_these(project):
    set_params(project, {"train.lr": 0.002})
    with pytest.raises(UserError, match=r"^params\.yaml: not as models/.* was trained\. Train first: dvc repro train"):
        tracking.log_run(["train"], {})


# --- experiments ---------------------------------------------------------------------------------------


def test_an_experiment_has_a_run_of_its_name_with_what_was_changed_and_the_commit(project, monkeypatch):
    make_repository(project)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    stem = model_file(project).stem
    tracking.log_run(STAGES, {})
    set_params(project, {"ngram.alpha": 0.02, "ngram.max_order": 5})  # the same model
    monkeypatch.setenv("DVC_EXP_NAME", "fewer-grams")
    for _ in range(2):
        tracking.log_run(STAGES, {})
    changed = {name: run.data.tags["changed"] for name, run in runs().items()}
    assert changed == {stem: "nothing", "fewer-grams": "ngram.max_order=5 ngram.alpha=0.02"}
    assert {run.data.tags["mlflow.source.git.commit"] for run in runs().values()} == {commit}
    monkeypatch.setenv("DVC_EXP_NAME", "again")
    tracking.log_run(STAGES, {})
    monkeypatch.delenv("DVC_EXP_NAME")
    tracking.log_run(STAGES, {})  # as after dvc exp apply: it has a run
    assert set(runs()) == {stem, "fewer-grams", "again"}


# --- trainings that fail ---------------------------------------------------------------------------------


def test_a_training_that_diverges_is_recorded_with_its_curve_and_the_advice_and_once(ready):
    set_params(ready, DIVERGES)
    for _ in range(2):
        message = refused(run_stage(ready, "train"))
        assert "A lower train.lr may help." in message
    run = the_run()
    assert run.info.status == "FAILED"
    assert f"error: {run.data.tags['mlflow.note.content']}" == message
    assert [step for step, *_ in points(run, "loss")] == [0]
    assert [step for step, *_ in points(run, "val_loss")] == [0]


def test_a_mistake_in_the_parameters_is_no_run(ready):
    set_params(ready, {"train.lr": -1.0})
    assert "train.lr: expected" in refused(run_stage(ready, "train"))
    assert not Path("mlruns").exists()
