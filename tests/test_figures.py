"""Pictures: PNGs of a readable size, and equal bytes from equal numbers."""

import json
import re
import time

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import image

from minitrain import figures
from minitrain.base import formats as spelled
from minitrain.gate.checks import CheckResult
from minitrain.gate.report import gate_table, page


@pytest.fixture
def numbers(root):
    return {
        stage: json.loads((root / "plots" / stage / "metrics.json").read_text())
        for stage in ("fp16-drift", "baseline-compare")
    }


def draw(numbers):
    log = [(4.0 - 0.01 * i, 1e-3 * i, 1.0 + 0.1 * np.sin(i)) for i in range(100)]
    evaluations = [(i, 4.0 - 0.01 * i) for i in range(0, 101, 10)]
    formats, modes = ("fp16", "bf16"), ("weights", "weights_and_activations")
    return {
        "loss": figures.loss_curve(log, evaluations, 90),
        "drift": figures.drift_per_layer(numbers["fp16-drift"], formats, modes),
        "perplexity": figures.perplexity_vs_n(numbers["baseline-compare"]),
    }


def test_equal_numbers_give_equal_bytes_at_any_time(numbers, tmp_path, monkeypatch):
    first = draw(numbers)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        patch.setattr(time, "time", lambda: 2e9)
        with mpl.rc_context({"savefig.dpi": 200, "lines.linewidth": 5, "font.size": 20}):  # a user's matplotlibrc
            assert draw(numbers) == first
    time.tzset()
    for name, data in first.items():
        (tmp_path / f"{name}.png").write_bytes(data)
        height, width = image.imread(tmp_path / f"{name}.png").shape[:2]
        assert height > 300
        assert width > 600
        assert b"matplotlib" not in data.lower()


def test_other_numbers_give_another_picture(numbers):
    first = figures.perplexity_vs_n(numbers["baseline-compare"])
    numbers["baseline-compare"]["val"]["model_ppl"] += 0.5
    assert figures.perplexity_vs_n(numbers["baseline-compare"]) != first


RESULTS = [CheckResult("good", "1", "1", passed=True), CheckResult("bad | worse", "1", "2 | 3", passed=False)]


def test_the_gate_table_has_a_line_a_check_with_expected_and_got():
    lines = gate_table(RESULTS).splitlines()
    assert lines[0].split() == ["ok", "good", "expected", "1;", "got", "1"]
    assert lines[1].startswith("FAIL  bad | worse")
    assert lines[2] == "1 passed, 1 failed"


def test_a_red_report_says_so_and_needs_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page(RESULTS, "MLflow: none", "x").decode()
    assert "THE GATE IS RED" in text
    assert "2 \\| 3" in text
    assert "none that could be read" in text


def test_a_green_report_shows_the_results(ran, monkeypatch):
    monkeypatch.chdir(ran[0])
    text = page(RESULTS[:1], "MLflow: runs:/1", "x").decode()
    assert "All items of the gate hold" in text
    assert "103,680 parameters, trained for 24 steps" in text
    assert "| test |" in text
    assert "| bf16 | weights and activations |" in text


def test_a_number_that_overflowed_is_said_to_be_so(numbers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers["fp16-drift"]["fp16"]["weights"]["perplexity"] = None
    path = tmp_path / "plots/fp16-drift/metrics.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(spelled.json_bytes(numbers["fp16-drift"]))
    assert re.search(r"\| fp16 \| weights \| \S+ \| \d+ \| overflow \|", page(RESULTS, "", "").decode())
