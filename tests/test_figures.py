"""Pictures of a readable size, with equal bytes from equal numbers; the gate's table and report."""

import io
import json

import matplotlib as mpl
import numpy as np
from matplotlib import image

from minitrain import figures
from minitrain.gate.checks import CheckResult
from minitrain.gate.report import page, terminal_line

# --- pictures ----------------------------------------------------------------------------------------


def draw(root, best_step: int) -> list[bytes]:
    log = [(4.0 - 0.01 * i, 1e-3 * i, 1.0 + 0.1 * np.sin(i)) for i in range(100)]
    drift = json.loads((root / "plots/fp16-drift/drift.json").read_text())
    scores = json.loads((root / "plots/baseline-compare/scores.json").read_text())
    return [
        figures.loss_curve(log, [(i, 4.0) for i in range(0, 101, 10)], best_step),
        figures.drift_per_layer(drift, ("fp16", "bf16"), ("weights", "weights_and_activations")),
        figures.perplexity_vs_n(scores),
    ]


def test_equal_numbers_give_equal_bytes_whatever_the_users_matplotlibrc_and_other_numbers_others(root):
    pictures = draw(root, best_step=90)
    with mpl.rc_context({"savefig.dpi": 200, "lines.linewidth": 5, "font.size": 20}):
        again = draw(root, best_step=80)  # which is marked
    assert [a == b for a, b in zip(pictures, again, strict=True)] == [False, True, True]
    for picture in pictures:
        height, width = image.imread(io.BytesIO(picture)).shape[:2]
        assert height > 300
        assert width > 600
        assert b"matplotlib" not in picture.lower()  # whose version would be another byte


# --- the gate's report -------------------------------------------------------------------------------

HOSTILE = "a\x1b[2J\nb|<img src=x>`[c](http://d)_*\udcff"  # the name of a file
RESULTS = [CheckResult("good", "1", "1", passed=True), CheckResult("bad", "1", HOSTILE, passed=False)]


def test_a_check_is_a_line_or_more_of_80_columns_whatever_the_name_of_a_file():
    good, bad = (terminal_line(result, colored=False) for result in RESULTS)
    assert terminal_line(RESULTS[0], colored=True) == good.replace("ok  ", "\x1b[32mok  \x1b[0m")
    assert bad.splitlines() == [
        f"{'FAIL  bad':29}expected 1",
        " " * 29 + r"got a\x1b[2J\nb|<img src=x>`[c](http://d)_*\udcff",
    ]
    long = terminal_line(CheckResult("long", "many words " * 20, "some", passed=True), colored=False)
    assert max(map(len, long.splitlines())) <= 80


def test_a_red_report_says_so_needs_no_model_and_shows_markup_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page(RESULTS, "bad").decode()
    shown = r"a\\x1b\[2J\\nb\|&lt;img src=x&gt;\`\[c\](http://d)\_\*\\udcff"
    assert "THE GATE IS RED" in text
    assert "none that could be read" in text
    assert f"| **FAIL** | bad | 1 | {shown} |" in text.splitlines()
