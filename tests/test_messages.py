"""What people read when a file has a hostile name, the cache is damaged or the shell is set up strangely."""

import os
import subprocess
import sys

from conftest import model_file, refused, run_stage

from minitrain.gate.checks import CheckResult
from minitrain.gate.report import gate_table, page

IMPORT = "from minitrain.base.process import run_command\n"
HOSTILE = "a\x1b[2J\nb|<img src=x>`[c](http://d)_*\udcff"


def test_a_name_with_control_characters_stays_on_its_line_of_the_table():
    table = gate_table([CheckResult("models", "nothing", f"different: {HOSTILE}", passed=False)])
    assert table.splitlines()[0].endswith(r"got different: a\x1b[2J\nb|<img src=x>`[c](http://d)_*\udcff")
    assert len(table.splitlines()) == 2


def test_a_name_with_markup_is_shown_as_it_is_in_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = [CheckResult("models", "nothing", HOSTILE, passed=False)]
    text = page(results, "models", f"note: {HOSTILE}", "x").decode()
    shown = r"a\\x1b\[2J\\nb\|&lt;img src=x&gt;\`\[c\](http://d)\_*\\udcff".replace("_*", "_\\*")
    assert f"| **FAIL** | models | nothing | {shown} |" in text.splitlines()
    assert f"- note: {shown}" in text.splitlines()


def test_an_error_that_names_such_a_file_is_one_line():
    code = (
        f"{IMPORT}from minitrain.base import UserError\ndef main():\n raise UserError({HOSTILE!r})\nrun_command(main)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert refused(result) == r"error: a\x1b[2J\nb|<img src=x>`[c](http://d)_*\udcff"


def test_a_damaged_file_is_to_be_made_again_by_force_since_dvcs_cache_may_have_the_same_damage(whole):
    path = model_file(whole)
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(run_stage(whole, "fp16-drift")).endswith("Make it again with: dvc repro --force")


def test_what_a_shell_may_have_set_does_not_reach_what_make_runs(root, tmp_path):
    (tmp_path / "show.mk").write_text(
        f"include {root}/Makefile\nshow:\n\t@echo [$$PYTHONSAFEPATH$$DVC_EXP_BASELINE_REV]\n"
    )
    env = {**os.environ, "PYTHONSAFEPATH": "1", "DVC_EXP_BASELINE_REV": "HEAD"}
    command = ["make", "--no-print-directory", "-f", tmp_path / "show.mk", "show"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
