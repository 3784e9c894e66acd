"""Short forms of the proofs in proofs/, and that each of them can fail."""

import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest

from minitrain.base import files
from minitrain.base.errors import UserError
from proofs import cpus, damage, faults, kills, lock


def test_a_fault_at_any_operation_of_the_writer_leaves_the_old_file_or_the_new(tmp_path):
    assert faults.sweep_one_file(tmp_path) > 100


@pytest.mark.parametrize("writer", faults.BAD_WRITERS)
def test_the_sweep_notices_a_writer_that_does_not_keep_its_promise(tmp_path, writer):
    """The negative controls."""
    assert faults.is_caught(writer, tmp_path)


def test_a_short_write_is_counted_only_where_bytes_are_written(tmp_path):
    with faults.faulty(1, faults.SHORT_WRITE, lasting=False) as injected:
        files.write_bytes(tmp_path / "empty", b"")
        files.write_bytes(tmp_path / "one", b"x")  # half of a byte cannot be written
        assert not injected.hit
        files.write_bytes(tmp_path / "two", b"xy")
        assert injected.hit


def test_a_fault_in_the_gates_writing_is_one_clear_error(ran, tmp_path):
    project = Path(shutil.copytree(ran[0], tmp_path / "project", ignore=shutil.ignore_patterns("mlruns")))
    assert faults.sweep_stage(project, "verify", "plots/verify") > 100
    assert set(os.listdir(project / "plots" / "verify")) == {"metrics.json", "PHASE_18_REPORT.md"}


def test_a_read_only_folder_is_one_clear_error(tmp_path):
    assert faults.read_only_folder(tmp_path) == "clear error, and with access again the same bytes"


def test_an_unfinished_file_of_a_killed_process_is_removed_by_the_next_write(tmp_path):
    (tmp_path / ".file.999999999.tmp").write_bytes(b"half")
    (tmp_path / f".file.{os.getppid()}.tmp").write_bytes(b"of a process that runs")
    files.write_bytes(tmp_path / "file", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", f".file.{os.getppid()}.tmp"}


def test_damaged_copies_are_refused(ran, tmp_path):
    project = Path(shutil.copytree(ran[0], tmp_path / "project", ignore=shutil.ignore_patterns("mlruns")))
    kinds, bad, slowest, grown = damage.run_children(project, 400)
    assert bad == []
    assert sum(kinds.values()) == 400
    assert len(kinds) > 40
    assert slowest < damage.SECONDS
    assert grown < damage.MEMORY


def test_copies_with_forged_digests_are_refused_or_whole(ran, tmp_path):
    project = Path(shutil.copytree(ran[0], tmp_path / "project", ignore=shutil.ignore_patterns("mlruns")))
    kinds, bad, _, _ = damage.run_children(project, 250, hostile=True)
    assert bad == []
    assert kinds.total() == 250
    assert 0 < sum(count for kind, count in kinds.items() if kind.endswith(", loaded")) < 50


def test_a_loader_without_its_digest_check_is_noticed(ran, tmp_path):
    """The negative control: flipped bits that only the digests can tell would load."""
    project = Path(shutil.copytree(ran[0], tmp_path / "project", ignore=shutil.ignore_patterns("mlruns")))
    assert damage.digest_check_matters(project, tmp_path / "careless")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project under DVC that has run, what it left, and its batches."""
    project = kills.Project(tmp_path_factory.mktemp("kills") / "project")
    project.finish()
    return project, project.left(), project.batches()


def test_two_runs_at_once_leave_what_one_leaves(finished):
    project, reference, batches = finished
    assert kills.two_at_once(project, reference, batches) in ("1 gave up, 1 ended well", "0 gave up, 2 ended well")
    intruder = project.path / "models" / "intruder"
    intruder.write_bytes(b"")  # the negative control: the comparison can fail
    with pytest.raises(UserError, match="different: models/intruder"):
        kills.check(project, reference, batches, "never")
    intruder.unlink()


def test_random_kills_of_dvc_repro_change_nothing(finished):
    project, reference, batches = finished
    assert kills.random_kills(project, 2).startswith("2 random kills in ")
    kills.check(project, reference, batches, "at random")


def test_kills_before_file_operations_change_nothing(finished):
    project, reference, batches = finished
    assert kills.kills_at_writes(project, 120, reference, batches) > 1
    other = {**batches, (0, 0): []}  # the negative control
    with pytest.raises(UserError, match="killed before operation 1: other files or batches"):
        kills.kills_at_writes(project, 120, reference, other)


def test_going_on_means_with_the_batch_that_comes_next():
    order = [(0, 4 * n, [n]) for n in range(6)]
    project = mock.create_autospec(kills.Project, instance=True)
    project.logged.return_value = order[:3] + order[2:5]  # killed in the third batch, with a checkpoint of the second
    assert kills.went_on(project, 2, 3, order)
    assert not kills.went_on(project, 2, 6, order)  # nothing more was taken
    assert not kills.went_on(project, None, 0, order)  # from the start is no going on
    for newest in (None, 1, 3):  # the negative control: one batch twice, one left out, all again
        with pytest.raises(UserError, match="another batch than the next"):
            kills.went_on(project, newest, 3, order)


def test_a_stage_that_another_python_runs_makes_the_proof_of_the_lock_fail(tmp_path, monkeypatch):
    """Without QEMU: what DVC starts is a script, in a folder with a space in its name."""
    project, again = tmp_path / "project", tmp_path / "again"
    (project / "stages").mkdir(parents=True)
    (project / "stages" / "train.py").write_text("""
import pathlib
pathlib.Path("models").mkdir()
pathlib.Path("models/a.state.safetensors").write_bytes(b"state")
""")
    (project / "dvc.yaml").write_text("stages: {train: {cmd: python -m stages.train, outs: [models]}}")
    shutil.copytree(project, again)
    interpreter = tmp_path / "a folder" / "interpreter"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    bypass = tmp_path / "bypass.sh"
    bypass.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')

    monkeypatch.setenv("SHELL", shutil.which("bash") or "")
    monkeypatch.setenv("BASH_ENV", str(bypass))
    with pytest.raises(UserError, match="interpreter': train"):
        lock.prove(project, b"stages: {}", [str(interpreter)])
    monkeypatch.delenv("BASH_ENV")
    expected = (project / lock.LOCK).read_bytes()
    assert lock.prove(again, expected, [str(interpreter)]) == (True, True)


def test_no_model_is_no_other_model():
    model, state = {"models/minigpt-a.safetensors": "a"}, {"models/minigpt-a.state.safetensors": "s"}
    other = {"models/minigpt-b.safetensors": "b", "models/minigpt-b.state.safetensors": "t"}
    assert cpus.models_differ(model | state, other)
    assert not cpus.models_differ(model | state, other | state)
    assert not cpus.models_differ(model, {})
    assert not cpus.models_differ({}, {})
