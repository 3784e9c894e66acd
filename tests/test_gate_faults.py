"""The gate's items one by one: faults that an item must notice, beyond the one that fails it alone (test_gate_items.py)."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import edit, model_file, run_stage
from gate import BEATS, FINAL, another_dropout_seed, change_json, change_state, failed, leak, manifest

from minitrain import loop, tracking
from minitrain.base import files, layout
from minitrain.training.state import TrainState


def flip_a_bit_of_the_model(project: Path) -> None:
    data = model_file(project).read_bytes()
    model_file(project).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


# Of what a run is a function of, all but what reading the model checks.
INPUTS = ("seed", "config_hash", "data_manifest_sha256", "data", "code_digest")


def another_schedule(state: TrainState) -> None:
    state.scheduler.shape = replace(state.scheduler.shape, lr=0.004)


def write_log(project: Path, rows: str) -> None:
    (project / "plots/train/log.csv").write_text(f"step,loss,lr,grad_norm\n{rows}")


def improve_a_metric_that_was_logged(project: Path) -> None:
    tracking.log_run(layout.STAGES[1:], {})
    change_json(project / "plots/baseline-compare/metrics.json", lambda m: m.update(test_ppl=1.5))


PICTURE = "plots/fp16-drift/drift_per_layer.png"

# What is done to a run, the item that must then fail, and what it says.
FAULTS = {
    "a row changed": (
        lambda p: edit(p / "data/shards/shard-00.jsonl", {"le gustará": "le gustara"}),
        "corpus",
        "shard-00.jsonl: expected {",
    ),
    "val is train": (leak, "no leak", "690 shared"),
    "the model damaged": (flip_a_bit_of_the_model, "model", "damaged or changed"),
    "the model damaged, reloaded": (flip_a_bit_of_the_model, "round trip", "damaged or changed"),
    "every input another": (
        lambda p: change_json(manifest(p), lambda m: m.update(dict.fromkeys(INPUTS, "0"))),
        "manifest",
        f"different: {', '.join(INPUTS)}",
    ),
    "a state digest changed": (
        lambda p: change_json(manifest(p), lambda m: m["state_digests"].update(optimizer="0")),
        "round trip",
        "different: state machine optimizer",
    ),
    "a result in the manifest improved": (
        lambda p: change_json(manifest(p), lambda m: m["metrics"].update(val_perplexity=1.1)),
        "model files",
        "different: minigpt-",
    ),
    "a file too many in the shards' folder": (
        lambda p: files.write_bytes(p / "data/shards/shard-04.jsonl.bak", b"{}"),
        "corpus",
        "different: shard-04.jsonl.bak",
    ),
    "a file too many below the shards' folder": (
        lambda p: files.write_bytes(p / "data/shards/more/shard-00.jsonl", b"{}"),
        "corpus",
        "different: more/shard-00.jsonl",
    ),
    "a state of another schedule": (
        lambda p: change_state(p, FINAL, another_schedule),
        "training log",
        "24, different: schedule",
    ),
    "a state of another data seed": (
        lambda p: change_state(p, FINAL, lambda state: setattr(state.data, "seed", 19)),
        "training log",
        "24, different: data seed",
    ),
    "a state of another dropout seed": (
        lambda p: change_state(p, FINAL, another_dropout_seed),
        "training log",
        "24, different: dropout seed",
    ),
    "another learning rate in the log": (
        lambda p: edit(p / "plots/train/log.csv", {",0.003,": ",0.00300001,"}),
        "training log",
        "24, different: learning rates",
    ),
    "a log that is no log": (lambda p: write_log(p, "x\n"), "training log", "ValueError"),
    "a step gone from the log": (lambda p: write_log(p, "0,4.16,0.001,1\n"), "training log", "1, different: steps"),
    "a wild first gradient": (lambda p: write_log(p, "0,4.16,0.001,99\n"), "first step", "4.160, 99.000"),
    "a text for the drift plot": (lambda p: (p / PICTURE).write_text("x" * 30), "fp16 drift plot", "x"),
    "the drift plot cut off": (lambda p: (p / PICTURE).write_bytes(b"\x89PNG"), "fp16 drift plot", "0 x 0"),
    "the drift plot gone": (lambda p: (p / PICTURE).unlink(), "fp16 drift plot", "cannot be read"),
    "other results in MLflow": (
        improve_a_metric_that_was_logged,
        "MLflow run",
        "different: test_ppl",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_item_notices_a_fault(whole, monkeypatch, name):
    fault, item, got = FAULTS[name]
    monkeypatch.chdir(whole)
    fault(whole)
    assert got in failed(whole, monkeypatch, item)[item]


def test_an_error_that_many_items_meet_is_said_once(whole, monkeypatch):
    flip_a_bit_of_the_model(whole)
    got = failed(whole, monkeypatch, "model", "round trip", "resumed run")
    assert list(got.values())[1:] == ["the same error as above"] * 2


def test_the_plots_item_names_every_file_that_is_another(whole, monkeypatch):
    paths = [path for stage in layout.STAGES for path in (whole / "plots" / stage).iterdir()]
    for path in paths:
        path.write_bytes(path.read_bytes() + b"x")
    got = failed(whole, monkeypatch, "plots")["plots"].removeprefix("different: ")
    assert sorted(got.split(", ")) == sorted(f"{path.parent.name}/{path.name}" for path in paths)


def test_weights_that_are_not_the_evaluated_ones_are_found(whole, monkeypatch):
    """A trainer that scores the average and exports the last weights: its files agree with each other, and resuming
    runs the same code. Only scoring what was exported can tell.
    """
    real = loop.evaluate

    def evaluate(state, *args):
        evaluation = real(state, *args)
        if evaluation.is_best:
            state.best.weights[:] = state.model.weights
        return evaluation

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.chdir(whole)
    shutil.rmtree("models")  # as DVC does
    for stage in layout.STAGES[1:]:
        assert run_stage(whole, stage).returncode == 0
    tracking.log_run(layout.STAGES[1:], {})
    got = failed(whole, monkeypatch)
    assert set(got) - BEATS == {"model files"}
    assert re.fullmatch(r"6 files equal; val perplexity 2\d\.\d+ instead of 2\d\.\d+", got["model files"])
