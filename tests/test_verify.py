"""The gate: green on a whole run, and for each of its items a fault that makes just that item fail."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import edit, model_file

from minitrain import files, numerics
from minitrain.params import read_params
from stages import verify

BEATS = verify.RESULT_ITEMS  # 24 steps are too few for that


def failed(project: Path, monkeypatch) -> dict[str, str]:
    """The items that fail, with what they got."""
    monkeypatch.chdir(project)
    gate = verify.Run(read_params())
    items = [verify.check(name, item, gate) for name, item in verify.ITEMS]
    return {item.name: item.got for item in items if not item.passed}


@pytest.fixture
def whole(ran, tmp_path):
    return Path(shutil.copytree(ran[0], tmp_path / "whole", ignore=shutil.ignore_patterns("checkpoints")))


def test_a_short_run_fails_only_where_24_steps_are_too_few(whole, monkeypatch):
    assert set(failed(whole, monkeypatch)) == BEATS


def test_the_command_prints_every_item_writes_the_report_and_exits_with_1(whole, run):
    result = run(whole, "stages.verify")
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith(("ok ", "FAIL"))]
    assert len(lines) == len(verify.ITEMS)
    assert sum(line.startswith("FAIL") for line in lines) == 2
    assert "error: the gate is red: beats n-grams on val, beats n-grams on test." in result.stderr
    assert "Traceback" not in result.stderr
    assert "THE GATE IS RED" in (whole / "PHASE_18_REPORT.md").read_text()
    assert not (whole / "plots/verify/metrics.json").exists()


def test_an_experiment_records_a_weak_model_but_no_broken_file(whole, run):
    """Under `dvc exp run` (which sets this variable) a poor result is a result; damage is still damage."""
    experiment = {"DVC_EXP_BASELINE_REV": "HEAD"}
    result = run(whole, "stages.verify", **experiment)
    assert result.returncode == 0, result.stderr
    assert "an experiment: recorded although red" in result.stdout
    n_items = len(verify.ITEMS)
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {"items": n_items, "passed": n_items - 2}
    (whole / "models/stray").write_text("x")
    assert run(whole, "stages.verify", **experiment).returncode == 1


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    files.write_json(path, value)


def flip_last_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def manifest(project: Path) -> Path:
    return next((project / "models").glob("*.manifest.json"))


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


def lose_kept(project: Path) -> None:
    """Another kept checkpoint, whole, and the manifest agrees with it: only resuming from it can tell."""
    import numpy as np

    from minitrain import checkpoint

    path = project / "models/evidence/kept.safetensors"
    state = checkpoint.load_state(path, 103_680)
    state.rng = np.random.Generator(np.random.PCG64(0))
    files.save_tensors(path, checkpoint.state_tensors(state))
    change_json(manifest(project), lambda m: m["files"].update({"evidence/kept.safetensors": files.sha256_file(path)}))


def other_probe(project: Path) -> None:
    path = project / "models/evidence/probe.safetensors"
    tensors = files.decode_tensors(path.read_bytes(), "probe")
    tensors["logits"].reshape(-1)[0] += 1e-12
    files.save_tensors(path, tensors)
    change_json(manifest(project), lambda m: m["files"].update({"evidence/probe.safetensors": files.sha256_file(path)}))


# What is done to a run, and the items that must then fail (beside BEATS). Where a fault cannot but show in
# several items, all are named; every item is alone in at least one case or is the first of a case.
FAULTS = {
    "a verb's form changed": (
        lambda p: edit(
            p / "data/verbs.yaml", {"present_simple: [juego, juegas, juega]": "present_simple: [jugo, jugas, juga]"}
        ),
        {"corpus"},
    ),
    "a row's text changed": (
        lambda p: edit(p / "data/shards/shard-00.jsonl", {"le gustará": "le gustara"}),
        {"corpus", "batches", "plots"},
    ),
    "cells changed": (change_batches, {"batches", "manifest"}),
    "val is train": (leak, {"batches", "no leak", "manifest", "plots", "resumed run", "model files"}),
    "a stray file in models": (lambda p: (p / "models/stray").write_text("x"), {"model files"}),
    "another config hash": (
        lambda p: change_json(manifest(p), lambda m: m.update(config_hash="0")),
        {"manifest", "model files"},
    ),
    "another code digest": (
        lambda p: change_json(manifest(p), lambda m: m.update(code_digest="0")),
        {"manifest", "model files"},
    ),
    "a line of training code changed": (
        lambda p: (p / "minitrain/loop.py").write_text((p / "minitrain/loop.py").read_text() + "\n"),
        {"manifest"},
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
    "a table changed by hand": (
        lambda p: edit(p / "plots/train/evaluations.csv", {"\n8,": "\n9,"}),
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
        {"model files", "round trip", "round trip in fp64", "resumed run", "plots"},
    ),
    "a metrics file gone": (lambda p: (p / "plots/fp16-drift/metrics.json").unlink(), {"plots"}),
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
    "the drift plot cut off": (
        lambda p: (p / "plots/fp16-drift/drift_per_layer.png").write_bytes(b"\x89PNG"),
        {"fp16 drift plot", "plots"},
    ),
    "the drift plot gone": (
        lambda p: (p / "plots/fp16-drift/drift_per_layer.png").unlink(),
        {"fp16 drift plot", "plots"},
    ),
    "pickle in a file": (lambda p: (p / "stages/extra.py").write_text("import pickle\n"), {"no pickle"}),
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


def test_where_bits_are_not_promised_numbers_may_differ_a_little_and_truths_not_at_all():
    left = {"a": 1.0, "n": 3, "b": True, "s": "x", "none": None}
    assert verify._close(left, {**left, "a": 1.0005})
    for change in ({"a": 1.01}, {"n": 4}, {"b": False}, {"s": "y"}, {"none": 1.0}, {"extra": 1}):
        assert not verify._close(left, {**left, **change})


def test_a_damaged_model_fails_what_needs_it(whole, monkeypatch):
    flip_last_bit(model_file(whole))
    got = failed(whole, monkeypatch)
    assert "damaged or changed" in got["model"]
    assert "damaged or changed" in got["round trip"]


def test_other_kernels_fail_their_item(whole, monkeypatch):
    monkeypatch.setattr(numerics, "PROMISED", {**numerics.PROMISED, "openblas_core": "Zen"})
    if numerics.machine_is_supported():
        assert "different" in failed(whole, monkeypatch)["numerics"]


def test_the_mlflow_run_is_recomputed_from_the_store(whole, monkeypatch):
    """A store that says something else than the log: the item reads it back."""
    from minitrain import tracking

    real = tracking.recorded_run
    monkeypatch.setattr(tracking, "recorded_run", lambda models: {**real(models), "loss": []})
    assert set(failed(whole, monkeypatch)) - BEATS == {"MLflow run"}


def test_a_green_gate_leaves_its_metrics_and_a_report_with_the_run(whole, monkeypatch, capsys):
    monkeypatch.setattr(verify, "ITEMS", tuple(item for item in verify.ITEMS if item[0] not in BEATS))
    monkeypatch.chdir(whole)
    verify.main()
    assert f"{len(verify.ITEMS)} passed, 0 failed" in capsys.readouterr().out
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {
        "items": len(verify.ITEMS),
        "passed": len(verify.ITEMS),
    }
    text = (whole / "PHASE_18_REPORT.md").read_text()
    assert "All items of the gate hold" in text
    assert re.search(r"MLflow run: `runs:/[0-9a-f]{32} in sqlite:///", text)
