"""How a command ends, whatever becomes of it: its exit code and what it says."""

import os
import re
import subprocess
import sys

import pytest
from conftest import refused

IMPORT = "from minitrain.base.process import run_command\n"


def test_output_that_nobody_reads_ends_the_run_quietly():
    code = f"{IMPORT}run_command(lambda: [print('x' * 1000) for _ in range(10_000)])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("end", ["\\n", ""])
def test_output_to_a_full_disk_ends_the_run_with_one_line(end, unbuffered):
    code = f"{IMPORT}run_command(lambda: print('x', end='{end}'))"
    command, env = [sys.executable, "-c", code], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.stderr.count("\n") == 1, result.stderr
        assert "error: what is printed cannot be written: No space left on device. Make room" in result.stderr
        both = subprocess.run(command, env=env, stdout=full, stderr=full, check=False)
    assert (result.returncode, both.returncode) == (1, 1)


def test_an_error_of_the_system_that_nobody_foresaw_keeps_its_traceback():
    code = f"import os\n{IMPORT}run_command(lambda: os.mkdir('/'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, "FileExistsError" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("failing", "got"),
    [
        ("__import__('numpy').zeros(2**50)", r" \(Unable to allocate 8.00 PiB for an array with shape .*\)"),
        ("'x' * 2**62", ""),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_do(failing, got):
    code = f"{IMPORT}run_command(lambda: {failing})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.fullmatch(f"error: not enough memory{got}. Choose smaller values in params.yaml.*", refused(result))


def test_what_is_printed_is_there_at_once_even_if_the_run_is_killed():
    code = f"import os\n{IMPORT}run_command(lambda: (print('step 0'), os.kill(os.getpid(), 9)))"
    command = [sys.executable, "-E", "-c", code]  # -E: PYTHONUNBUFFERED might be set
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (-9, "step 0\n")


def test_sigterm_outside_of_the_training_loop_says_how_to_go_on():
    code = f"import os, signal\n{IMPORT}run_command(lambda: os.kill(os.getpid(), signal.SIGTERM))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (143, "stopped by SIGTERM. To go on: run the same command again.\n")
