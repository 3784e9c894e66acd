"""The gate as a command: what it prints, writes and ends with."""

import json
import re

from conftest import refused, run_stage
from gate import BEATS, change_json, manifest

from minitrain.gate import checks

RED = "error: the gate is red: "


def test_a_short_run_fails_only_where_24_steps_are_too_few_and_the_gate_ends_with_1(whole):
    result = run_stage(whole, "verify")
    lines = [re.match(r"(ok  |FAIL)  (.*?)  +", line) for line in result.stdout.splitlines()]
    assert [line[2] for line in lines if line] == list(checks.CHECKS)
    assert {line[2] for line in lines if line and line[1] == "FAIL"} == BEATS
    assert "resumed at step 18 == uninterrupted: equal bytes" in result.stdout
    assert refused(result).startswith(f"{RED}beats n-grams on val, beats n-grams on test.")
    assert "THE GATE IS RED" in (whole / "PHASE_18_REPORT.md").read_text()
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {"failed": 2}


def test_an_experiment_records_a_weak_model(whole):
    """`dvc exp run` sets this variable. That damage is still damage: test_gate_items.py."""
    result = run_stage(whole, "verify", DVC_EXP_BASELINE_REV="HEAD")
    assert result.returncode == 0, result.stderr
    red = "THE GATE IS RED: beats n-grams on val, beats n-grams on test (recorded all the same"
    assert result.stdout.splitlines()[-1].startswith(red)
    assert f"**{red}" in (whole / "PHASE_18_REPORT.md").read_text()
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {"failed": 2}


def test_a_green_gate_leaves_its_metrics_and_a_report_with_the_run(whole, monkeypatch):
    monkeypatch.setattr(checks, "CHECKS", {name: check for name, check in checks.CHECKS.items() if name not in BEATS})
    result = run_stage(whole, "verify")
    n_items = len(checks.CHECKS)
    assert (result.returncode, f"{n_items} passed, 0 failed" in result.stdout) == (0, True)
    assert json.loads((whole / "plots/verify/metrics.json").read_text()) == {"failed": 0}
    text = (whole / "PHASE_18_REPORT.md").read_text()
    for shown in (
        "All items of the gate hold",
        " parameters, trained for 24 steps",
        "| test |",
        "| bf16 | weights and",
    ):
        assert shown in text
    assert re.search(r"MLflow: runs:/[0-9a-f]{32} in mlflow.db\n", result.stdout)


def test_files_that_parse_but_are_no_metrics_make_the_gate_red_not_break_it(whole):
    (whole / "plots/fp16-drift/drift.json").write_text("[]")
    change_json(manifest(whole), lambda m: m.pop("step"))
    assert refused(run_stage(whole, "verify")).startswith(f"{RED}model, model files")
    assert "THE GATE IS RED" in (whole / "PHASE_18_REPORT.md").read_text()
