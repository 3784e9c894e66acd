"""How a command starts and how it ends, whatever becomes of it: the settings of its process, its exit code, its words."""

import os
import platform
import re
import subprocess
import sys

import pytest
from conftest import ROOT, refused, run_python

from proofs.project import must_run


def command(main: str) -> list[str]:
    """The arguments for Python to run a command whose ``main`` is this expression."""
    imports = "import os, signal\nfrom minitrain.base import files\nfrom minitrain.base.process import run_command"
    return ["-c", f"{imports}\nrun_command(lambda: {main})"]


def test_output_that_nobody_reads_ends_the_run_quietly():
    line = [sys.executable, *command("[print('x' * 1000) for _ in range(10_000)]")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ["\\n", ""])
def test_output_to_a_full_disk_ends_the_run_with_one_line(end, unbuffered):
    line, env = [sys.executable, *command(f"print('x', end='{end}')")], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        result = subprocess.run(line, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "what is printed cannot be written: No space left on device. Run again" in refused(result)


@pytest.mark.parametrize(("redirect", "code"), [(">&-", 0), (">&- 2>&-", 0), ("1<params.yaml", 1)])
def test_a_closed_stdout_is_no_traceback(root, redirect, code):
    """``1<``: a descriptor that is open, but not for writing, is what a stage gets from ``dvc repro >&-``."""
    line = ["sh", "-c", f'"$0" "$@" {redirect}', sys.executable, *command("(print('x'), open('README.md').read())")]
    result = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    said = (
        "error: what is printed cannot be written: Bad file descriptor. Run again with an output that can be written.\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, "", code * said)


MEMORY = r"error: not enough memory \({}\). Choose smaller values in params.yaml[^\n]*\n$"
ENDS = {
    "an error of the system that nobody foresaw keeps its traceback": (
        "os.mkdir('/')",
        1,
        "Traceback.*FileExistsError",
    ),
    "an array that does not fit": (
        "__import__('numpy').zeros(2**50)",
        1,
        MEMORY.format("Unable to allocate 8.00 PiB for an array with shape .*"),
    ),
    "a text that does not fit": ("'x' * 2**62", 1, MEMORY.format("no more is free")),
    "a file whose name has control characters is named in one line": (
        r"files.read_bytes(__import__('pathlib').Path('a\x1b[2J\nb\udcff'))",
        1,
        r"error: a\\x1b\[2J\\nb\\udcff: cannot be read: No such file or directory\. Run this in [^\n]*\n$",
    ),
    "SIGTERM outside of the training loop says how to go on": (
        "os.kill(os.getpid(), signal.SIGTERM)",
        143,
        "stopped by SIGTERM. To go on: run the same command again.\n$",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_command_ends_with_this_code_and_says_this(name):
    main, code, said = ENDS[name]
    result = run_python(ROOT, *command(main))
    assert result.returncode == code
    assert re.match(said, result.stderr, flags=re.DOTALL), result.stderr


def test_what_is_printed_is_there_at_once_even_if_the_run_is_killed():
    # -E: PYTHONUNBUFFERED might be set
    result = run_python(ROOT, "-E", *command("(print('step 0'), os.kill(os.getpid(), signal.SIGKILL))"))
    assert (result.returncode, result.stdout) == (-9, "step 0\n")


# A step of the training makes many arrays and drops them all.
PAGE_FAULTS = """
import resource
import numpy as np
from minitrain.base.process import run_command
def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        arrays = [np.ones(1 << 17) for _ in range(50)]  # 1 MB each
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fresh = page_faults()
run_command(lambda: print(fresh, (page_faults(), page_faults())[1]))
"""


def test_freed_memory_stays_with_the_process():
    """Fresh memory costs a page fault for every 4 KB."""
    fresh, kept = map(int, run_python(ROOT, "-c", PAGE_FAULTS).stdout.split())
    if platform.libc_ver()[0] == "glibc":
        assert fresh > 50_000
        assert kept < 500


def test_what_a_shell_may_have_set_does_not_reach_what_make_runs(root, tmp_path):
    (tmp_path / "show.mk").write_text(
        f"include {root}/Makefile\nshow:\n\t@echo [$$PYTHONSAFEPATH$$DVC_EXP_BASELINE_REV]\n"
    )
    line = ("make", "--no-print-directory", "-f", "show.mk", "show")
    assert must_run(tmp_path, *line, PYTHONSAFEPATH="1", DVC_EXP_BASELINE_REV="HEAD") == "[]\n"
