"""The gate with native arithmetic: numbers may differ a little on another machine, and all else is still looked at."""

import json

import pytest
from conftest import edit, run_stage
from gate import BEATS, change_json, failed, manifest

from minitrain.base import UserError
from minitrain.base.layout import STAGES
from minitrain.evaluation import roundtrip
from minitrain.gate import checks, compare
from minitrain.gate.run import Run
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from proofs.project import SHORT, copy_project

LEFT = json.dumps({"a": 1.0, "tiny": -2.5e-07, "n": 3000, "b": True, "none": None})
TABLE = "layer,error\n0,0.0123\n"


@pytest.mark.parametrize(
    ("left", "old", "new", "close"),
    [
        (LEFT, "", "", True),
        (LEFT, "1.0", "1.0005", True),
        (LEFT, "-2.5e-07", "-2.5001e-07", True),
        (LEFT, "1.0", "1.01", False),
        (LEFT, "-2.5e-07", "2.5e-07", False),
        (LEFT, "3000", "3001", False),  # counts and truths may not differ at all
        (LEFT, "true", "false", False),
        (LEFT, "null", "1.0", False),
        (LEFT, "}", ', "extra": 1}', False),
        (TABLE, "0.0123", "0.012301", True),
        (TABLE, "0.0123", "0.00123", False),
        (TABLE, "\n0,", "\n1,", False),
        (TABLE, "\n0,", "\n0,0,", False),
        (TABLE, "error", "errors", False),
    ],
)
def test_where_bits_are_not_promised_numbers_may_differ_a_little_and_nothing_else(left, old, new, close):
    assert compare.close(left, left.replace(old, new, 1)) == close


def test_where_bits_are_not_promised_a_picture_must_be_there(tmp_path):
    picture = tmp_path / "loss.png"
    with pytest.raises(UserError, match="cannot be read"):
        compare.agrees(picture, b"picture")
    for content in (b"", b"another picture"):
        picture.write_bytes(content)
        assert compare.agrees(picture, b"picture") == bool(content)


@pytest.fixture
def native(tmp_path):
    """A project that ran with native arithmetic."""
    project = copy_project(tmp_path / "native", {**SHORT, "model.arithmetic": "native"})
    no_server = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    for stage in STAGES:
        assert run_stage(project, stage, **no_server).returncode == 0
    yield project
    arithmetic.use("exact")


def test_the_gate_says_what_native_does_not_promise_and_still_finds_what_is_false(native, monkeypatch):
    names = [name for name in checks.CHECKS if name != "MLflow run"]
    # As on another machine: the resumed run ends in other bits.
    monkeypatch.setattr(roundtrip, "train", lambda *_: iter(()))
    assert set(failed(native, monkeypatch, *names)) == BEATS
    result = checks.evaluate("resumed run", Run(read_params()))
    assert (result.expected, result.passed) == ("native: not promised", True)
    change_json(manifest(native), lambda m: m["metrics"].update(val_perplexity=1.1))
    edit(native / "plots/shard-to-batches/lengths.csv", {",0,": ",0.0,"})  # it counts: no number may differ
    edit(native / "plots/train/evaluations.csv", {",4.": ",4.5"})
    found = failed(native, monkeypatch, "model files", "plots")
    assert set(found) == {"model files", "plots"}
    assert found["plots"] == "different: shard-to-batches/lengths.csv, train/evaluations.csv"
