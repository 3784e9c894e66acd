"""Short forms of the proofs in proofs/, and that each of them can fail."""

import sys

import pytest
from conftest import refused, run_python

from minitrain.base import files
from minitrain.base.errors import UserError
from proofs import cpus, damage, faults, kills, mlflow_server, repeat
from proofs.project import DVC, SHORT, must_run


def test_a_fault_at_any_operation_of_the_writer_leaves_the_old_file_or_the_new(tmp_path):
    assert faults.sweep_formats(tmp_path) > 300


@pytest.mark.parametrize("writer", faults.BAD_WRITERS)
def test_the_sweep_notices_a_writer_that_does_not_keep_its_promise(tmp_path, writer):
    assert faults.is_caught(writer, tmp_path)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "folder").write_bytes(b"a file")
    with pytest.raises(UserError, match="folder/file: cannot be written: "):
        files.write_bytes(tmp_path / "folder" / "file", b"new")


def test_every_flipped_bit_of_a_small_file_is_refused(tmp_path):
    assert damage.flip_every_bit(tmp_path) > 1000


def test_damaged_copies_are_refused(ran):
    assert damage.try_copies(ran, 200) == {damage.REFUSED: 200}


def test_copies_whose_digests_match_are_refused_or_load_and_nothing_worse(ran):
    outcomes = damage.try_copies(ran, 200, hostile=True)
    assert outcomes[damage.REFUSED] + outcomes[damage.LOADED] == 200
    assert outcomes[damage.REFUSED] > 100
    assert outcomes[damage.LOADED] > 0


def test_a_loader_without_its_digest_check_is_noticed(ran):
    assert damage.is_caught(ran)


def test_what_mlflow_has_is_compared_with_what_is_on_disk(ran):
    assert mlflow_server.compare(ran, f"sqlite:///{ran}/mlflow.db") > 15


@pytest.mark.parametrize("name", mlflow_server.CONTROLS)
def test_a_file_that_mlflow_does_not_have_is_noticed(ran, whole, name):
    assert mlflow_server.is_noticed(whole, f"sqlite:///{ran}/mlflow.db", name)


def test_kills_before_file_operations_change_nothing(tmp_path):
    project = tmp_path / "project"
    kills.renew(project, SHORT)
    assert kills.train(project) == 0
    reference = kills.left(project)
    assert kills.kills_at_writes(project, reference, every=90) > 1
    assert kills.left_after(project, lambda state: None) == reference
    assert kills.left_after(project, lambda state: state.optimizer.m.fill(0)) != reference
    with pytest.raises(UserError, match=r"before operation 1: different: batches$"):
        kills.kills_at_writes(project, {**reference, "batches": b""}, every=90)


def test_random_kills_of_dvc_repro_and_two_at_once_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "STAGES", ("train",))
    monkeypatch.setattr(kills, "LONGER", SHORT)
    project = tmp_path / "project"
    assert kills.two_at_once(project) in ("1 gave up, 1 ended well", "0 gave up, 2 ended well")
    assert "2 random kills in " in kills.random_kills(project, 2)


def test_going_on_means_with_the_batch_that_comes_next():
    order = ["0 0", "0 4", "0 8", "0 12"]
    assert kills.went_on(2, ["0 8", "0 12"], order)
    assert not kills.went_on(2, [], order)  # nothing more was taken
    assert not kills.went_on(0, order, order)  # from the start is no going on
    for step in (0, 1, 3):  # one batch twice, one left out, all again
        with pytest.raises(UserError, match="another batch than the next"):
            kills.went_on(step, ["0 8"], order)


def test_runs_that_leave_other_files_are_not_equal():
    with pytest.raises(UserError, match=r"arm64: the proof does not hold: different: a, b$"):
        cpus.compare_files({"a": b"1", "c": b"3"}, "arm64", {"b": b"2", "c": b"3"})


def test_the_lock_of_other_files_is_another_lock(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: python -m stages.train, outs: [models]}}")
    (tmp_path / "models").mkdir()
    must_run(tmp_path, *DVC, "init", "--no-scm", "--quiet")
    locks = []
    for content in (b"a", b"b", b"a"):
        (tmp_path / "models/file").write_bytes(content)
        locks.append(cpus.lock_of(tmp_path))
    assert locks[0] == locks[2] != locks[1]


# --- any DVC project -----------------------------------------------------------------------------------------

FIRST = {
    "make": {"deps": {"in": "1"}, "outs": {"a": "2", "b": "3"}},
    "use": {"deps": {"a": "2"}, "outs": {"c": "4"}},
    "last": {"deps": {"c": "4"}, "outs": {"d": "5"}},
}


def test_only_the_stage_that_read_the_same_is_blamed_for_what_differs():
    assert repeat.not_reproduced(FIRST, FIRST) == ({}, [])
    again = {
        "make": {"deps": {"in": "1"}, "outs": {"a": "9", "b": "3"}},
        "use": {"deps": {"a": "9"}, "outs": {"c": "8"}},
        "last": FIRST["last"],
    }
    assert repeat.not_reproduced(FIRST, again) == ({"make": ["a"]}, ["use"])


def test_a_stage_that_did_not_end_is_blamed_even_if_it_leaves_nothing():
    first = {**FIRST, "gate": {"deps": {"d": "5"}, "outs": {}}}
    assert repeat.not_reproduced(first, FIRST) == ({"gate": ["did not end"]}, [])


def test_an_input_that_no_stage_made_is_blamed_when_it_differs():
    """A folder of code with bytecode in it: nothing behind it could be compared, and that is not `the same`."""
    again = {**FIRST, "make": {"deps": {"in": "9"}, "outs": {"a": "9", "b": "3"}}}
    assert repeat.not_reproduced(FIRST, again) == ({"make": ["in (an input that no stage made)"]}, [])
    below = {name: {"deps": {"a/part": digest}, "outs": {}} for name, digest in (("use", "1"),)}
    first = {"make": FIRST["make"], **below}
    again = {"make": FIRST["make"], "use": {"deps": {"a/part": "2"}, "outs": {}}}
    assert repeat.not_reproduced(first, again) == ({}, ["use"])


def test_in_another_order_of_files_python_lists_the_same_ones(tmp_path):
    for name in "abc":
        (tmp_path / name).touch()
    code = "import glob, os; print(*os.listdir('.'), *glob.glob('*'), *(entry.name for entry in os.scandir()))"
    here = must_run(tmp_path, sys.executable, "-c", code).split()
    there = must_run(tmp_path, sys.executable, "-c", code, PYTHONPATH=str(repeat.SHIMS / "file_order")).split()
    assert there == [*here[2::-1], *here[5:2:-1], *here[:5:-1]]


def test_a_folder_that_is_no_dvc_project_is_one_clear_error(root, tmp_path):
    result = run_python(root, "-m", "proofs.repeat", str(tmp_path))
    assert refused(result).endswith("expected a DVC project (a folder .dvc), found none.")
