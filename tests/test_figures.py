"""Pictures of a readable size, with equal bytes from equal numbers; the gate's table and report."""

import io
import json

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import image

from minitrain import figures
from minitrain.base import files, formats
from minitrain.gate.checks import CheckResult
from minitrain.gate.report import gate_table, page


@pytest.fixture
def drift(root):
    return json.loads((root / "plots/fp16-drift/metrics.json").read_text())


@pytest.fixture
def baselines(root):
    return json.loads((root / "plots/baseline-compare/metrics.json").read_text())


# --- pictures ----------------------------------------------------------------------------------------


def draw(drift, baselines):
    log = [(4.0 - 0.01 * i, 1e-3 * i, 1.0 + 0.1 * np.sin(i)) for i in range(100)]
    evaluations = [(i, 4.0 - 0.01 * i) for i in range(0, 101, 10)]
    return [
        figures.loss_curve(log, evaluations, 90),
        figures.drift_per_layer(drift, ("fp16", "bf16"), ("weights", "weights_and_activations")),
        figures.perplexity_vs_n(baselines),
    ]


def test_equal_numbers_give_equal_bytes_whatever_the_users_matplotlibrc(drift, baselines):
    pictures = draw(drift, baselines)
    with mpl.rc_context({"savefig.dpi": 200, "lines.linewidth": 5, "font.size": 20}):
        assert draw(drift, baselines) == pictures
    for picture in pictures:
        height, width = image.imread(io.BytesIO(picture)).shape[:2]
        assert height > 300
        assert width > 600
        assert b"matplotlib" not in picture.lower()  # whose version would be another byte


def test_other_numbers_give_another_picture(baselines):
    first = figures.perplexity_vs_n(baselines)
    baselines["val"]["model_ppl"] += 0.5
    assert figures.perplexity_vs_n(baselines) != first


# --- the gate's report -------------------------------------------------------------------------------

RESULTS = [CheckResult("good", "1", "1", passed=True), CheckResult("bad | worse", "1", "2 | 3", passed=False)]


def test_the_gate_table_has_a_line_a_check_with_expected_and_got():
    lines = gate_table(RESULTS).splitlines()
    assert lines[0].split() == ["ok", "good", "expected", "1;", "got", "1"]
    assert lines[1].startswith("FAIL  bad | worse")
    assert lines[2] == "1 passed, 1 failed"


def test_a_red_report_says_so_and_needs_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page(RESULTS, "bad", "MLflow: none", "x").decode()
    assert "THE GATE IS RED" in text
    assert "2 \\| 3" in text  # in a table of Markdown
    assert "none that could be read" in text


def test_a_green_report_shows_the_results(ran, monkeypatch):
    monkeypatch.chdir(ran)
    text = page(RESULTS[:1], "", "MLflow: runs:/1", "x").decode()
    assert "All items of the gate hold" in text
    assert " parameters, trained for 24 steps" in text
    assert "| test |" in text
    assert "| bf16 | weights and activations |" in text


def test_a_number_that_overflowed_is_said_to_be_so(drift, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drift["fp16"]["weights"]["perplexity"] = None
    files.write_bytes(tmp_path / "plots/fp16-drift/metrics.json", formats.json_bytes(drift))
    (row,) = [line for line in page(RESULTS, "", "", "").decode().splitlines() if line.startswith("| fp16 | weights |")]
    assert row.endswith("| overflow |")
