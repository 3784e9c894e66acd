"""The gate as a command: what it prints, writes and ends with."""

import json
import re
from pathlib import Path

import pytest
from conftest import edit, model_file
from gate import BEATS, change_json, failed, manifest

from minitrain import tracking
from minitrain.base.errors import UserError
from minitrain.base.layout import MODELS
from minitrain.gate import checks
from stages import verify


def test_a_short_run_fails_only_where_24_steps_are_too_few(whole, monkeypatch):
    assert set(failed(whole, monkeypatch)) == BEATS


def test_the_command_prints_every_item_writes_the_report_and_exits_with_1(whole, run):
    result = run(whole, "stages.verify")
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith(("ok ", "FAIL"))]
    assert len(lines) == len(checks.CHECKS)
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
    n_items = len(checks.CHECKS)
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {"items": n_items, "passed": n_items - 2}
    (whole / "models/stray").write_text("x")
    assert run(whole, "stages.verify", **experiment).returncode == 1


def flip_last_bit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_damaged_model_fails_what_needs_it(whole, monkeypatch):
    flip_last_bit(model_file(whole))
    got = failed(whole, monkeypatch)
    assert "damaged or changed" in got["model"]
    assert "damaged or changed" in got["round trip"]


@pytest.mark.parametrize("content", ["{}", "[]"])
def test_files_that_parse_but_are_no_metrics_make_the_gate_red_not_break_it(whole, run, content):
    (whole / "plots/fp16-drift/metrics.json").write_text(content)
    change_json(manifest(whole), lambda m: m.pop("step"))
    result = run(whole, "stages.verify")
    assert result.returncode == 1
    assert "error: the gate is red: model, model files" in result.stderr
    assert "THE GATE IS RED" in (whole / "PHASE_18_REPORT.md").read_text()


@pytest.mark.parametrize(
    "break_file",
    [
        lambda p: edit(p / "plots/train/log.csv", {"\n0,4.": "\n0,x."}),
        lambda p: edit(p / "plots/train/evaluations.csv", {"step": "steps"}),
        lambda p: change_json(manifest(p), lambda m: m.pop("inputs_digest")),
    ],
)
def test_files_that_cannot_fill_a_lost_store_make_the_gate_red_not_break_it(whole, run, break_file):
    (whole / "mlflow.db").unlink()
    break_file(whole)
    result = run(whole, "stages.verify")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "error: the gate is red: " in result.stderr
    text = (whole / "PHASE_18_REPORT.md").read_text()
    assert "- note: " in text
    assert "| **FAIL** | MLflow run |" in text


def test_the_report_has_no_credentials_in_it(whole, monkeypatch):
    monkeypatch.chdir(whole)
    recorded = tracking.recorded_run(MODELS)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host")
    monkeypatch.setattr(tracking, "_client", lambda: None)
    monkeypatch.setattr(tracking, "_find_run", lambda *args: "1")
    monkeypatch.setattr(tracking, "_add_results", lambda *args: None)
    monkeypatch.setattr(tracking, "recorded_run", lambda models: recorded)
    with pytest.raises(UserError, match="the gate is red"):
        verify.main()
    assert "- MLflow: runs:/1 in http://host" in Path("PHASE_18_REPORT.md").read_text()


def test_a_green_gate_leaves_its_metrics_and_a_report_with_the_run(whole, monkeypatch, capsys):
    monkeypatch.setattr(checks, "CHECKS", {name: check for name, check in checks.CHECKS.items() if name not in BEATS})
    monkeypatch.chdir(whole)
    verify.main()
    assert f"{len(checks.CHECKS)} passed, 0 failed" in capsys.readouterr().out
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {
        "items": len(checks.CHECKS),
        "passed": len(checks.CHECKS),
    }
    text = (whole / "PHASE_18_REPORT.md").read_text()
    assert "All items of the gate hold" in text
    assert re.search(r"- MLflow: runs:/[0-9a-f]{32} in sqlite:///", text)
