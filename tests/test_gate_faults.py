"""Faults that an item of the gate must notice, beside the one that it fails by alone (test_gate_items.py)."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import edit, model_file
from gate import (
    FINAL,
    another_dropout_seed,
    change_json,
    change_state,
    export_again,
    failed,
    manifest,
)

from minitrain import tracking
from minitrain.base import files, layout
from minitrain.training.state import TrainState


def another_schedule(state: TrainState) -> None:
    state.scheduler.shape = replace(state.scheduler.shape, lr=0.004)


def a_trainer_that_exports_the_last_weights(project: Path) -> None:
    """It scored their average. Its files agree with each other: only scoring what was exported can tell."""
    change_state(project, FINAL, lambda state: state.best.weights.__setitem__(slice(None), state.model.weights))
    export_again()


def improve_a_metric_that_was_logged(project: Path) -> None:
    tracking.log_run(layout.STAGES[1:], {})
    change_json(project / "plots/baseline-compare/metrics.json", lambda m: m.update(test_ppl=1.5))


def write_log(project: Path, rows: str) -> None:
    (project / "plots/train/log.csv").write_text(f"step,loss,lr,grad_norm\n{rows}")


# Of what a run is a function of, all but what reading the model checks.
INPUTS = ("seed", "config_hash", "data_manifest_sha256", "data", "code_digest")
PICTURE = "plots/fp16-drift/drift_per_layer.png"

# What is done to a run, the item that must then fail, and what it says.
FAULTS = {
    "a row changed": (
        lambda p: edit(p / "data/shards/shard-00.jsonl", {"le gustará": "le gustara"}),
        "corpus",
        "shard-00.jsonl: expected {",
    ),
    "a file too many below the shards' folder": (
        lambda p: files.write_bytes(p / "data/shards/more/shard-00.jsonl", b"{}"),
        "corpus",
        "different: more/shard-00.jsonl",
    ),
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
    "weights that were not evaluated": (
        a_trainer_that_exports_the_last_weights,
        "model files",
        "6 files equal; val perplexity 2",
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
    model_file(whole).write_bytes(b"x")
    first, *others = failed(whole, monkeypatch, "model", "round trip", "resumed run").values()
    assert "damaged or changed" in first
    assert others == ["the same error as above"] * 2


def test_the_plots_item_names_every_file_that_is_another(whole, monkeypatch):
    paths = [path for stage in layout.STAGES for path in (whole / "plots" / stage).iterdir()]
    for path in paths:
        path.write_bytes(path.read_bytes() + b"x")
    got = failed(whole, monkeypatch, "plots")["plots"].removeprefix("different: ")
    assert sorted(got.split(", ")) == sorted(f"{path.parent.name}/{path.name}" for path in paths)
