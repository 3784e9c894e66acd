"""The gate with native arithmetic: numbers may differ a little on another machine, and all else is still looked at."""

import json
from pathlib import Path

import pytest
from conftest import edit, run_stage
from gate import BEATS, change_json, failed, manifest

from minitrain.base.layout import STAGES
from minitrain.evaluation import roundtrip
from minitrain.gate import checks, compare
from minitrain.gate.run import Run
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from proofs.project import SHORT, copy_project


@pytest.fixture(scope="module")
def exact_plots(ran) -> dict[str, dict[str, bytes]]:
    """The files of plots as they were left, by stage."""
    return {stage: {path.name: path.read_bytes() for path in (ran / "plots" / stage).iterdir()} for stage in STAGES}


LEFT = {"a": 1.0, "tiny": -2.5e-07, "n": 3000, "b": True, "s": "x", "none": None}


@pytest.mark.parametrize("change", [{}, {"a": 1.0005}, {"tiny": -2.5001e-07}])
def test_where_bits_are_not_promised_numbers_may_differ_a_little(change):
    assert compare.close(json.dumps(LEFT), json.dumps({**LEFT, **change}))


@pytest.mark.parametrize(
    "change", [{"a": 1.01}, {"tiny": 2.5e-7}, {"n": 3001}, {"b": False}, {"s": "y"}, {"none": 1.0}, {"extra": 1}]
)
def test_where_bits_are_not_promised_counts_and_truths_may_not_differ_at_all(change):
    assert not compare.close(json.dumps(LEFT), json.dumps({**LEFT, **change}))


@pytest.fixture
def native(tmp_path):
    """A project that ran with native arithmetic."""
    project = copy_project(tmp_path / "native", {**SHORT, "model.arithmetic": "native"})
    for stage in STAGES:
        assert run_stage(project, stage, MLFLOW_TRACKING_URI="none://").returncode == 0
    yield project
    arithmetic.use("exact")


def test_the_gate_says_what_native_does_not_promise_and_still_finds_what_is_false(native, monkeypatch):
    names = [name for name in checks.CHECKS if name != "MLflow run"]
    assert set(failed(native, monkeypatch, *names)) == BEATS
    result = checks.evaluate("resumed run", Run(read_params()))
    assert (result.expected, result.passed) == ("native: not promised", True)
    # As on another machine: the resumed run ends in other bits.
    monkeypatch.setattr(roundtrip, "train", lambda *_: iter(()))
    assert set(failed(native, monkeypatch, *names)) == BEATS
    change_json(manifest(native), lambda m: m["metrics"].update(val_perplexity=1.1))
    assert set(failed(native, monkeypatch, "model files")) == {"model files"}


def edited(changes: dict[str, str]):
    return lambda file: edit(file, changes)


@pytest.mark.parametrize(
    ("path", "change", "found"),
    [
        ("train/evaluations.csv", edited({"\n8,": "\n9,"}), True),
        ("train/evaluations.csv", edited({",4.": ",4.5"}), True),
        ("train/evaluations.csv", edited({"val_loss": "loss"}), True),
        ("train/log.csv", edited({"\n23,": "\n23,0,"}), True),
        ("fp16-drift/relative_l2.csv", edited({",0.000": ",0.00000"}), True),
        ("fp16-drift/relative_l2.csv", edited({"embed_out": "embed"}), True),
        ("baseline-compare/perplexity_val.csv", edited({"29.2735": "29.2736"}), False),  # another processor may say so
        ("shard-to-batches/lengths.csv", edited({",0,": ",0.0,"}), True),
        ("shard-to-batches/counts.json", edited({'"mean_tokens": ': '"mean_tokens": 0'}), True),
        ("train/loss.png", lambda file: file.write_bytes(b""), True),
        ("train/loss.png", lambda file: file.write_bytes(b"another picture"), False),
        ("fp16-drift/argmax_flips.md", Path.unlink, True),
    ],
)
def test_where_bits_are_not_promised_every_file_of_plots_is_still_looked_at(
    whole, monkeypatch, exact_plots, path, change, found
):
    monkeypatch.chdir(whole)
    gate = Run(read_params())
    gate.bits_promised = False
    monkeypatch.setattr(gate, "expected_plots", lambda stage: exact_plots[stage])
    change(whole / "plots" / path)
    result = checks.evaluate("plots", gate)
    assert result.passed == (not found)
    assert path in result.got or not found
