"""Each item of the gate can fail alone: for each a fault that makes just that one red (more: test_gate_faults.py)."""

import io
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import edit, run_stage
from gate import (
    BEATS,
    FINAL,
    KEPT,
    another_dropout_seed,
    bless,
    change_json,
    change_state,
    export_again,
    manifest,
    measure_again,
)
from matplotlib import image

from minitrain import tracking
from minitrain.base import files, tensors
from minitrain.dataset import build
from minitrain.evaluation import baselines, drift, roundtrip
from minitrain.gate import checks
from minitrain.gate.run import Run
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from minitrain.training import export

# --- each item alone: what makes just this one fail ------------------------------------------------------
#
# The gate recomputes everything from everything, so a changed file shows in several items. To make one fail alone, the
# rest must be true: a fault is made, and then all that follows from it is made again, as a broken program would have.


def other_batches(project: Path, _: object) -> None:
    """Whole batches with another name of a cell, which no later stage reads."""
    change_json(project / "data/batches/cells.json", lambda value: value["cells"][0].__setitem__(4, "x"))
    bless(project)
    export_again()


def a_splitter_that_leaks(project: Path, monkeypatch) -> None:
    """test is val: everything is made from that, and nothing reads test but the baseline."""
    folder = project / "data/batches"
    shutil.copy(folder / "val.safetensors", folder / "test.safetensors")
    bless(project)
    made = Run(read_params()).built_dataset
    content = {name: (folder / name).read_bytes() for name in made[0]}
    monkeypatch.setattr(build, "build_dataset", lambda *args: (content, made[1]))
    export_again()
    for stage in ("fp16-drift", "baseline-compare"):
        assert run_stage(Path(), stage).returncode == 0


def a_log_with(change) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A trainer whose log is not what it did: in the kept checkpoint, at the end, and in MLflow."""

    def fault(project: Path, monkeypatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/again.db")
        for name in (KEPT, FINAL):
            change_state(project, name, lambda state: change(state.log.steps))
        export_again()

    return fault


def a_trainer_that_keeps_another_state(project: Path, _: object) -> None:
    """The manifest agrees with it: only resuming from it can tell."""
    path = change_state(project, KEPT, another_dropout_seed)
    change_json(manifest(project), lambda m: m["files"].update({KEPT: files.sha256_file(path)}))
    measure_again()


def a_machine_that_computes_otherwise(_: Path, monkeypatch) -> None:
    monkeypatch.setattr(arithmetic, "check_machine", lambda: None)  # which would stop every stage at its start
    monkeypatch.setattr(arithmetic, "KNOWN_ANSWER", "0")


def returning(module, name: str, change, then) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A program whose function returns something else, and what follows from that is made."""

    def fault(_: Path, monkeypatch) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: change(real(*args)))
        then()

    return fault


def a_model_that_beats_them_on(won: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Of both splits, only the other one is lost."""
    return returning(
        baselines,
        "measure",
        lambda metrics: {**metrics, won: {**metrics[won], "model_ppl": 1.5}},
        lambda: run_stage(Path(), "baseline-compare"),
    )


def move_the_logits(probe: bytes) -> bytes:
    arrays = tensors.decode_tensors(probe, "probe")
    return tensors.encode_tensors({**arrays, "logits": arrays["logits"] + 1e-12})


def a_picture_of_one_pixel(plots: dict[str, bytes]) -> dict[str, bytes]:
    drawn = io.BytesIO()
    image.imsave(drawn, [[0.0]], format="png")
    return {**plots, "drift_per_layer.png": drawn.getvalue()}


def use_pickle(project: Path, _: object) -> None:
    files.write_bytes(project / "examples/extra.py", b"import pickle\n")
    (project / "stages/.#train.py").symlink_to("of an editor")


def edited(path: str, old: str, new: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda project, _: edit(project / path, {old: new})


def patched(module, name: str, value) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda _, monkeypatch: monkeypatch.setattr(module, name, value)


VERB, MIS_CONJUGATED = "present_simple: [juego, juegas, juega]", "present_simple: [jugo, jugas, juga]"
real_run = tracking.recorded_run

# Each item of the gate: what makes it fail alone, and what its line then says.
ALONE = {
    "corpus": (
        edited("data/verbs.yaml", VERB, MIS_CONJUGATED),
        "different: shard-00.jsonl, shard-01.jsonl, ",
    ),
    "batches": (other_batches, "got different: cells.json, summary.json"),
    "no leak": (a_splitter_that_leaks, "expected no cell, no sequence in two splits got 135 shared"),
    "model": (patched(checks, "LOCKED_PARAMETERS", 103_681), "expected 103,681 parameters got 103,680"),
    "model files": (lambda project, _: (project / "models/stray").write_text("x"), "got different: stray"),
    "manifest": (edited("minitrain/loop.py", "nats a token", "nats for a token"), "got different: code_digest"),
    "round trip": (
        returning(
            roundtrip,
            "measure",
            lambda metrics: {**metrics, "state_machines": {**metrics["state_machines"], "optimizer": False}},
            measure_again,
        ),
        "got different: state machine optimizer",
    ),
    "round trip in fp64": (
        returning(export, "probe", move_the_logits, export_again),
        "got different bytes",
    ),
    "resumed run": (a_trainer_that_keeps_another_state, "got different bytes"),
    "beats n-grams on val": (a_model_that_beats_them_on("test"), "expected perplexity below 2.8597 got 29."),
    "beats n-grams on test": (a_model_that_beats_them_on("val"), "expected perplexity below 3.0024 got 29."),
    "plots": (edited("plots/train/evaluations.csv", "\n8,", "\n9,"), "got different: train/evaluations.csv"),
    "training log": (
        a_log_with(lambda log: log.insert(0, log[0])),
        "expected 24 steps, as in params.yaml got 25, different: steps",
    ),
    "first step": (a_log_with(lambda log: log.__setitem__(0, (9.0, *log[0][1:]))), "got 9.000, "),
    "fp16 drift plot": (
        returning(drift, "plots", a_picture_of_one_pixel, lambda: run_stage(Path(), "fp16-drift")),
        "expected a picture drift_per_layer.png got 1 x 1",
    ),
    "no pickle": (use_pickle, "got examples/extra.py:"),
    "arithmetic": (a_machine_that_computes_otherwise, f"known answer 0 got {arithmetic.KNOWN_ANSWER}"),
    "MLflow run": (
        patched(tracking, "recorded_run", lambda: (real_run()[0], [])),
        "got different: losses",
    ),
}


def test_every_item_has_a_fault_of_its_own():
    assert tuple(ALONE) == tuple(checks.CHECKS)


@pytest.mark.parametrize("name", ALONE)
def test_an_item_fails_alone_and_the_gate_ends_with_1(whole, monkeypatch, name):
    fault, line = ALONE[name]
    monkeypatch.chdir(whole)
    fault(whole, monkeypatch)
    # In an experiment the results do not count.
    ended = run_stage(whole, "verify", **({} if name in checks.RESULT_CHECKS else {"DVC_EXP_BASELINE_REV": "HEAD"}))
    assert ended.returncode == 1
    items = re.split("^(ok  |FAIL)  ", ended.stdout, flags=re.MULTILINE)
    red = {item.split("  ")[0]: " ".join(item.split()) for mark, item in pairwise(items) if mark == "FAIL"}
    assert set(red) - (BEATS - {name}) == {name}
    assert line in red[name]
    assert name in ended.stderr
