"""A user's mistake is answered by one clear line, and nothing half-written is left.

What is wrong with rows, shards and parameters, one by one: test_corpus.py, test_params.py; with batches:
test_batches.py; a training that diverges: test_tracking.py.
"""

import re
import subprocess
import sys

import pytest
from closure import PACKAGES, imported_modules
from conftest import ROOT, edit, model_file, refused, run_python, run_stage

import stages
from proofs.project import must_run, tree


@pytest.mark.parametrize("name", ["numpy", "mlflow"])
def test_a_missing_package_is_named_before_anything_is_imported(root, tmp_path, name):
    # None: Python takes it for not there.
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules['{name}'] = None")
    message = refused(run_python(root, "-m", "stages.train", PYTHONPATH=str(tmp_path)))
    assert f"missing from {sys.executable}: {name}." in message
    assert "source .venv/bin/activate" in message


def test_every_package_that_is_imported_is_looked_up(root):
    """So the peers of the benchmarks are imported by no file of the project."""
    paths = [*root.glob("minitrain/**/*.py"), *root.glob("stages/*.py")]
    imported = {module.split(".")[0] for path in paths for module in imported_modules(path)}
    assert imported - set(sys.stdlib_module_names) - set(PACKAGES) == set(stages.NEEDED)


SHARD = "data/shards/shard-01.jsonl"
# By stage: what is done to a project, and what the stage then says.
BAD_FILES = {
    "shard-to-batches": {
        "a row": (
            lambda p: edit(p / SHARD, {'"label": "': '"label": "x'}),
            f"{SHARD}:1: key 'label': expected one of 'correct' or 'mis_conjugated'",
        ),
        "invalid UTF-8": (
            lambda p: (p / SHARD).write_bytes(b'{"id": "\xff"}\n'),
            f"{SHARD}:1: expected UTF-8, got the byte 0xff",
        ),
        "missing folder": (
            lambda p: edit(p / "params.yaml", {"data/shards": "data/nowhere"}),
            "data/nowhere: expected a folder with at least one shard",
        ),
        "empty folder": (
            lambda p: [path.unlink() for path in (p / "data/shards").iterdir()],
            "data/shards: expected a folder with at least one shard",
        ),
        "missing shard": (lambda p: (p / SHARD).unlink(), "as in data/MANIFEST.json, got none."),
        "missing manifest": (lambda p: (p / "data/MANIFEST.json").unlink(), "data/MANIFEST.json: cannot be read"),
        "too long a sequence": (
            lambda p: edit(p / "params.yaml", {"context: 32": "context: 20"}),
            "expected at most 21 tokens",
        ),
        "too small a vocabulary": (
            lambda p: edit(p / "params.yaml", {"vocab_size: 64": "vocab_size: 20"}),
            "model.vocab_size: expected at least",
        ),
        "a parameter": (lambda p: edit(p / "params.yaml", {" steps: ": " stepps: "}), "train.stepps: unknown key"),
    },
    "fp16-drift": {
        "a truncated model": (
            lambda p: model_file(p).write_bytes(model_file(p).read_bytes()[:-1]),
            "was damaged or changed. Get it back with: dvc checkout; or make it again: dvc repro --force",
        ),
        "no model": (lambda p: model_file(p).unlink(), "cannot be read"),
        "a model without its manifest": (
            lambda p: next((p / "models").glob("*.manifest.json")).unlink(),
            "expected one model with its manifest, found 0",
        ),
        "a model of another config": (
            lambda p: edit(p / "params.yaml", {"d_ff: 256": "d_ff: 128"}),
            "expected the config of params.yaml",
        ),
        "another tokenizer": (
            lambda p: edit(p / "models/tokenizer.json", {"<unk>": "<nil>"}),
            "models/tokenizer.json: expected the sha256",
        ),
        "a model of another schema": (
            lambda p: edit(
                next((p / "models").glob("*.manifest.json")), {'"schema_version": 3': '"schema_version": 9'}
            ),
            "key 'schema_version': expected 3",
        ),
    },
}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in BAD_FILES for name in BAD_FILES[stage]])
def test_a_bad_file_is_named_and_nothing_is_written(whole, stage, name):
    breaking, message = BAD_FILES[stage][name]
    breaking(whole)
    before = tree(whole)
    assert message in refused(run_stage(whole, stage))
    assert tree(whole) == before


# --- how a command ends ------------------------------------------------------------------------------------


def command(main: str) -> list[str]:
    """The arguments for Python to run a command whose ``main`` is this expression."""
    imports = "import os, signal\nfrom minitrain.base import files\nfrom minitrain.base.process import run_command"
    return ["-c", f"{imports}\nrun_command(lambda: {main})"]


def test_output_that_nobody_reads_ends_the_run_quietly(root):
    line = [sys.executable, *command("[print('x' * 1000) for _ in range(10_000)]")]
    with subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("end", ["\\n", ""])
def test_output_to_a_full_disk_ends_the_run_with_one_line(root, end):
    line = [sys.executable, *command(f"print('x', end='{end}')")]
    with open("/dev/full", "w") as full:
        result = subprocess.run(line, cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
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


def test_what_a_shell_may_have_set_does_not_reach_what_make_runs(root, tmp_path):
    (tmp_path / "show.mk").write_text(
        f"include {root}/Makefile\nshow:\n\t@echo [$$PYTHONSAFEPATH$$DVC_EXP_BASELINE_REV]\n"
    )
    line = ("make", "--no-print-directory", "-f", "show.mk", "show")
    assert must_run(tmp_path, *line, PYTHONSAFEPATH="1", DVC_EXP_BASELINE_REV="HEAD") == "[]\n"
