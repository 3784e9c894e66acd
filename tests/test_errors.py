"""How a command ends, whatever becomes of it: its exit code and what it says."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, refused, run_python


def command(main: str) -> list[str]:
    """The arguments for Python to run a command whose ``main`` is this expression."""
    return ["-c", f"import os, signal\nfrom minitrain.base.process import run_command\nrun_command(lambda: {main})"]


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
    assert "what is printed cannot be written: No space left on device. Make room" in refused(result)


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
