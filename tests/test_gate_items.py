"""Each item of the gate can fail: for each a fault that makes just that one red, then faults that show in several."""

import io
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import edit
from gate import BEATS, change_json, failed, manifest
from matplotlib import image

from minitrain import loop, tracking
from minitrain.base import files, formats, layout, numerics, tensors
from minitrain.base.process import run_command
from minitrain.dataset import build
from minitrain.dataset.read import read_dataset
from minitrain.evaluation import baselines, drift, roundtrip
from minitrain.gate import checks
from minitrain.gate.run import Run
from minitrain.params import read_params
from minitrain.training import export
from minitrain.training.checkpoint import load_state, state_tensors
from minitrain.training.manifest import run_inputs
from minitrain.training.state import TrainState
from stages import baseline_compare, checkpoint_roundtrip_verify, fp16_drift, train, verify


def bless(project: Path) -> None:
    """Make the summary agree with the batches as they are now."""
    folder = project / "data/batches"
    change_json(
        folder / "summary.json",
        lambda summary: summary.update(files={name: files.sha256_file(folder / name) for name in summary["files"]}),
    )


def change_batches(project: Path) -> None:
    """Other, whole batches: two cells' names are swapped, which no later stage reads."""
    change_json(project / "data/batches/cells.json", lambda value: value["cells"][0].__setitem__(4, "x"))
    bless(project)


def leak(project: Path) -> None:
    shutil.copy(project / "data/batches/train.safetensors", project / "data/batches/val.safetensors")
    bless(project)


def load_in(project: Path, path: Path) -> TrainState:
    params = read_params(project / "params.yaml")
    return load_state(path, params.model, params.train)


def save(path: Path, state: TrainState) -> None:
    path.write_bytes(tensors.encode_tensors(state_tensors(state)))


def lose_kept(project: Path) -> None:
    """Another kept checkpoint, whole, and the manifest agrees with it: only resuming from it can tell."""
    path = project / "models/evidence/kept.safetensors"
    state = load_in(project, path)
    state.rng = np.random.Generator(np.random.PCG64(0))
    save(path, state)
    change_json(manifest(project), lambda m: m["files"].update({"evidence/kept.safetensors": files.sha256_file(path)}))


def other_probe(project: Path) -> None:
    path = project / "models/evidence/probe.safetensors"
    arrays = tensors.decode_tensors(path.read_bytes(), "probe")
    arrays["logits"].reshape(-1)[0] += 1e-12
    path.write_bytes(tensors.encode_tensors(arrays))
    change_json(manifest(project), lambda m: m["files"].update({"evidence/probe.safetensors": files.sha256_file(path)}))


# --- each item alone: what makes just this one fail ------------------------------------------------------
#
# The gate recomputes everything from everything, so a changed file shows in several items. To make one fail alone, the
# rest must be true: a fault is made, and then all that follows from it is made again, as a broken program would have.


def export_again(state: TrainState | None = None) -> None:
    """Leave what the training would have left, had it come to ``state``, under the inputs as they are now."""
    params = read_params()
    dataset = read_dataset(layout.BATCHES, params.model)
    state = state or load_in(Path(), next(layout.MODELS.glob("*.state.safetensors")))
    midrun = (layout.MODELS / layout.MIDRUN_CHECKPOINT).read_bytes()
    inputs = run_inputs(params.model, params.train, dataset)
    exported = export.model_files(state, params.model, inputs, midrun, dataset.stores["val"])
    for path in layout.MODELS.glob("minigpt-*"):
        path.unlink()
    files.write_all(layout.MODELS, exported)
    tables = export.training_tables(state) | baselines.training_picture(state)
    files.write_all(layout.PLOTS / "train", tables)
    measure_again()


def measure_again() -> None:
    """Leave the metrics of the round trip as they are now, whatever they say."""
    files.write_bytes(
        layout.metrics_path("checkpoint-roundtrip-verify"), formats.metrics_bytes(Run(read_params()).roundtrip)
    )


def other_batches(project: Path, _: object) -> None:
    change_batches(project)
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
    for stage in (fp16_drift, baseline_compare):
        stage.main()


def a_log_with(change) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """A trainer whose log is not what it did: in the kept checkpoint, at the end, and in MLflow."""

    def fault(project: Path, monkeypatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/again.db")
        kept = project / "models/evidence/kept.safetensors"
        last = next((project / "models").glob("*.state.safetensors"))
        states = {path: load_in(project, path) for path in (kept, last)}
        for state in states.values():
            change(state.log.steps)
        save(kept, states[kept])
        export_again(states[last])

    return fault


def a_trainer_that_records_other_logits(project: Path, monkeypatch) -> None:
    real = export.probe

    def probe(*args):
        arrays = real(*args)
        arrays["logits"].reshape(-1)[0] += 1e-12
        return arrays

    monkeypatch.setattr(export, "probe", probe)
    export_again()


def a_trainer_that_keeps_another_state(project: Path, _: object) -> None:
    lose_kept(project)
    measure_again()


def a_round_trip_that_loses_the_optimizer(project: Path, monkeypatch) -> None:
    real = roundtrip.measure

    def measure(*args):
        metrics = real(*args)
        return {**metrics, "state_machines": {**metrics["state_machines"], "optimizer": False}}

    monkeypatch.setattr(roundtrip, "measure", measure)
    measure_again()


def a_model_that_beats_them_on(won: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Of both splits, only the other one is lost."""

    def fault(project: Path, monkeypatch) -> None:
        real = baselines.measure

        def measure(*args):
            metrics = real(*args)
            return {**metrics, won: {**metrics[won], "model_ppl": 1.5}}

        monkeypatch.setattr(baselines, "measure", measure)
        baseline_compare.main()

    return fault


def a_picture_of_one_pixel(project: Path, monkeypatch) -> None:
    real, drawn = drift.plots, io.BytesIO()
    image.imsave(drawn, [[0.0]], format="png")
    monkeypatch.setattr(drift, "plots", lambda *args: {**real(*args), "drift_per_layer.png": drawn.getvalue()})
    fp16_drift.main()


def edited(path: str, old: str, new: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda project, _: edit(project / path, {old: new})


def patched(module, name: str, value) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda _, monkeypatch: monkeypatch.setattr(module, name, value)


VERB, MIS_CONJUGATED = "present_simple: [juego, juegas, juega]", "present_simple: [jugo, jugas, juga]"
real_run = tracking.recorded_run

# Each item of the gate: what makes it fail alone, and what its line then says.
ALONE = {
    "corpus": (edited("data/verbs.yaml", VERB, MIS_CONJUGATED), "got 320 correct of 668 rows, 4 shards differ"),
    "batches": (other_batches, "got different: cells.json, summary.json"),
    "no leak": (a_splitter_that_leaks, "expected no cell, no sequence in two splits; got 135 shared"),
    "model": (patched(checks, "LOCKED_PARAMETERS", 103_681), "expected 103,681 parameters; got 103,680"),
    "model files": (lambda project, _: (project / "models/stray").write_text("x"), "got different: stray"),
    "manifest": (edited("minitrain/loop.py", "nats a token", "nats for a token"), "got different: code_digest"),
    "round trip": (a_round_trip_that_loses_the_optimizer, "got different: state machine optimizer"),
    "round trip in fp64": (a_trainer_that_records_other_logits, "got 11392 compared, different"),
    "resumed run": (a_trainer_that_keeps_another_state, "got different bytes"),
    "beats n-grams on val": (a_model_that_beats_them_on("test"), "expected perplexity below 2.8597; got 29."),
    "beats n-grams on test": (a_model_that_beats_them_on("val"), "expected perplexity below 3.0024; got 30."),
    "plots": (edited("plots/train/evaluations.csv", "\n8,", "\n9,"), "got different: train/evaluations.csv"),
    "training log": (
        a_log_with(lambda log: log.insert(0, log[0])),
        "expected 24 steps, each once; got 25, not each once",
    ),
    "first step": (a_log_with(lambda log: log.__setitem__(0, (9.0, *log[0][1:]))), "got 9.000, "),
    "fp16 drift plot": (a_picture_of_one_pixel, "expected a picture drift_per_layer.png; got 1 x 1"),
    "no pickle": (lambda project, _: (project / "stages/extra.py").write_text("import pickle\n"), "stages/extra.py:"),
    "packages": (
        patched(checks, "version", lambda name: "0.1" if name == "pillow" else version(name)),
        "packages as locked; got pillow 0.1 instead of ",
    ),
    "numerics": (
        lambda _, monkeypatch: monkeypatch.setitem(numerics.PROMISED, "openblas_core", "Zen"),
        "got different: {'openblas_core': 'Haswell'}",
    ),
    "MLflow run": (
        patched(tracking, "recorded_run", lambda models: (real_run(models)[0], [])),
        "with 0, different",
    ),
}


def test_every_item_has_a_fault_of_its_own():
    assert tuple(ALONE) == tuple(checks.CHECKS)


@pytest.mark.parametrize("name", ALONE)
def test_an_item_fails_alone_and_the_gate_ends_with_1(whole, monkeypatch, capsys, name):
    fault, line = ALONE[name]
    monkeypatch.chdir(whole)
    if name not in BEATS:  # which do not count in an experiment
        monkeypatch.setenv("DVC_EXP_BASELINE_REV", "HEAD")
    fault(whole, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        run_command(verify.main)
    printed, errors = capsys.readouterr()
    assert ended.value.code == 1
    red = {text[6:].split("  ")[0]: text for text in printed.splitlines() if text.startswith("FAIL")}
    assert set(red) - (BEATS if name not in BEATS else set()) == {name}
    assert line in red[name]
    assert name in errors
    assert "Traceback" not in errors


# --- faults that cannot but show in several items --------------------------------------------------------

NEED_THE_MODEL = (
    set(checks.CHECKS)
    - BEATS
    - {"corpus", "batches", "no leak", "first step", "fp16 drift plot", "no pickle", "packages", "numerics"}
)

# What is done to a run, and the items that must then fail (beside BEATS).
FAULTS = {
    "a row's text changed": (
        lambda p: edit(p / "data/shards/shard-00.jsonl", {"le gustará": "le gustara"}),
        {"corpus", "batches", "plots"},
    ),
    "cells changed": (change_batches, {"batches", "manifest"}),
    "val is train": (leak, {"batches", "no leak", "manifest", "plots", "resumed run", "model files"}),
    "another config hash": (
        lambda p: change_json(manifest(p), lambda m: m.update(config_hash="0")),
        {"manifest", "model files"},
    ),
    "another code digest": (
        lambda p: change_json(manifest(p), lambda m: m.update(code_digest="0")),
        {"manifest", "model files"},
    ),
    "a state digest changed": (
        lambda p: change_json(manifest(p), lambda m: m["state_digests"].update(optimizer="0")),
        {"round trip", "plots", "model files"},
    ),
    "other logits recorded": (other_probe, {"round trip in fp64", "plots", "model files"}),
    "another kept checkpoint": (lose_kept, {"resumed run", "plots"}),
    "a metric improved by hand": (
        lambda p: change_json(p / "plots/baseline-compare/metrics.json", lambda m: m["test"].update(model_ppl=1.5)),
        {"plots"},
    ),
    "the list of flips changed": (
        lambda p: (p / "plots/fp16-drift/argmax_flips.md").write_text("none"),
        {"plots"},
    ),
    "a result in the manifest improved by hand": (
        lambda p: change_json(manifest(p), lambda m: m["metrics"].update(val_perplexity=1.1)),
        {"model files"},
    ),
    "a log that is no log": (
        lambda p: (p / "plots/train/log.csv").write_text("nonsense\n1\n"),
        {"training log", "first step", "plots", "MLflow run"},
    ),
    "a manifest without its digests": (
        lambda p: change_json(manifest(p), lambda m: m.pop("state_digests")),
        NEED_THE_MODEL,
    ),
    "a metrics file gone": (lambda p: (p / "plots/fp16-drift/metrics.json").unlink(), {"plots", "MLflow run"}),
    "a step gone from the log": (
        lambda p: (p / "plots/train/log.csv").write_text(
            "".join((p / "plots/train/log.csv").read_text().splitlines(keepends=True)[:-1])
        ),
        {"training log", "plots", "MLflow run"},
    ),
    "a wild first step": (
        lambda p: edit(p / "plots/train/log.csv", {"\n0,4.": "\n0,9."}),
        {"first step", "plots", "MLflow run"},
    ),
    "a text for the drift plot": (
        lambda p: (p / "plots/fp16-drift/drift_per_layer.png").write_text("a text of more than 24 letters"),
        {"fp16 drift plot", "plots"},
    ),
    "the drift plot cut off": (
        lambda p: (p / "plots/fp16-drift/drift_per_layer.png").write_bytes(b"\x89PNG"),
        {"fp16 drift plot", "plots"},
    ),
    "the drift plot gone": (
        lambda p: (p / "plots/fp16-drift/drift_per_layer.png").unlink(),
        {"fp16 drift plot", "plots"},
    ),
    "allow_pickle in a file": (
        lambda p: (p / "minitrain/extra.py").write_text("import numpy as np\nnp.load('x', allow_pickle=True)\n"),
        {"no pickle"},
    ),
    "another package locked": (
        lambda p: edit(p / "requirements.lock", {"safetensors==": "safetensors==9."}),
        {"packages", "manifest"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_item(whole, monkeypatch, name):
    fault, items = FAULTS[name]
    fault(whole)
    assert set(failed(whole, monkeypatch)) - BEATS == items


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
    for stage in (train, checkpoint_roundtrip_verify, fp16_drift, baseline_compare):
        stage.main()
    tracking.log_run(layout.MODELS, layout.PLOTS, layout.STAGES[1:])
    got = failed(whole, monkeypatch)
    assert set(got) - BEATS == {"model files"}
    assert re.fullmatch(r"5 files equal; val perplexity 29\.\d+ instead of 29\.\d+", got["model files"])


def test_results_of_another_experiment_in_mlflow_are_replaced_or_the_item_fails(whole, monkeypatch):
    monkeypatch.chdir(whole)
    result, places = "baseline-compare/val.model_ppl", (layout.MODELS, layout.PLOTS)
    tracking.log_run(*places, layout.STAGES[1:])
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "results", lambda plots, stages: {result: 1.5})
        tracking.log_run(*places, ["baseline-compare"])
    assert tracking.recorded_run(layout.MODELS)[0].data.metrics[result] == 1.5
    check = checks.evaluate("MLflow run", Run(read_params()))
    assert not check.passed
    assert check.got.endswith(f"results, different: {result}")
    tracking.log_run(*places, layout.STAGES[1:])
    assert checks.evaluate("MLflow run", Run(read_params())).passed
    assert tracking.recorded_run(layout.MODELS)[0].data.metrics[result] > 1.5
