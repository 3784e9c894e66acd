"""Pictures: PNGs of a readable size, and equal bytes from equal numbers."""

import json
import time

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import image

from minitrain import figures
from minitrain.report import Item, gate_table, page


@pytest.fixture
def numbers(root):
    return {
        stage: json.loads((root / "plots" / stage / "metrics.json").read_text())
        for stage in ("fp16-drift", "baseline-compare")
    }


def draw(numbers):
    log = [(4.0 - 0.01 * i, 1e-3 * i, 1.0 + 0.1 * np.sin(i)) for i in range(100)]
    evaluations = [(i, 4.0 - 0.01 * i) for i in range(0, 101, 10)]
    drift, modes = numbers["fp16-drift"], ("weights", "weights_and_activations")
    return {
        "loss": figures.loss_curve(log, evaluations, 90),
        "drift": figures.drift_per_layer(drift, list(drift["largest_activation"]), modes),
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


ITEMS = [Item("good", "1", "1", passed=True), Item("bad | worse", "1", "2 | 3", passed=False)]


def test_the_gate_table_has_a_line_an_item_with_expected_and_got():
    lines = gate_table(ITEMS).splitlines()
    assert lines[0].split() == ["ok", "good", "expected", "1;", "got", "1"]
    assert lines[1].startswith("FAIL  bad | worse")
    assert lines[2] == "1 passed, 1 failed"


def test_a_red_report_says_so_and_needs_no_model():
    text = page(ITEMS, {}, {}, "none", {"CPU": "x"})
    assert "THE GATE IS RED" in text
    assert "2 \\| 3" in text
    assert "none that could be read" in text


def test_a_green_report_shows_the_results(numbers):
    manifest = {"model": "m.safetensors", "parameters": 103_680, "step": 2000, "metrics": {"best_step": 7}}
    text = page(ITEMS[:1], manifest, numbers, "runs:/1", {"CPU": "x"})
    assert "All items of the gate hold" in text
    assert "103,680 parameters" in text
    assert "| test |" in text
    assert "| bf16 | weights and activations |" in text
