"""Short forms of the proofs in proofs/, and that each of them can fail."""

import pytest
import safetensors.numpy
from conftest import edit

from minitrain.base import files, tensors
from minitrain.base.errors import UserError
from proofs import cpus, damage, faults, kills, mlflow_server, repeat
from proofs.project import DVC, SHORT, must_run


def test_a_fault_at_any_operation_of_the_writer_leaves_the_old_file_or_the_new(tmp_path):
    assert faults.sweep_formats(tmp_path) > 300


@pytest.mark.parametrize("writer", faults.BAD_WRITERS)
def test_the_sweep_notices_a_writer_that_does_not_keep_its_promise(tmp_path, monkeypatch, writer):
    monkeypatch.setattr(files, "write_bytes", writer)
    with pytest.raises(UserError, match=" at operation "):
        faults.sweep_formats(tmp_path)


def test_every_flipped_bit_of_a_small_file_is_refused(tmp_path):
    assert damage.flip_every_bit(tmp_path) > 1000


def test_damaged_copies_are_refused(ran):
    assert damage.try_copies(ran, 200) == {damage.REFUSED: 200}


def test_a_loader_without_its_digest_check_is_noticed(ran, monkeypatch):
    monkeypatch.setattr(tensors, "decode_tensors", lambda data, *_: safetensors.numpy.load(data))
    assert any(became.endswith(damage.LOADED) for became in damage.try_copies(ran, 100))


def test_what_mlflow_has_is_compared_with_what_is_on_disk(ran):
    assert mlflow_server.compare(ran, f"sqlite:///{ran}/mlflow.db") > 15


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("plots/baseline-compare/metrics.json", '"test_ppl": ', '"test_ppl": 1'),
        ("plots/train/log.csv", "\n7,", "\n7,1"),
        ("plots/fp16-drift/relative_l2.csv", "depth", "height"),
    ],
)
def test_a_file_that_mlflow_does_not_have_is_noticed(ran, whole, name, old, new):
    edit(whole / name, {old: new})
    with pytest.raises(UserError, match="different in MLflow and on disk: "):
        mlflow_server.compare(whole, f"sqlite:///{ran}/mlflow.db")


def test_kills_before_file_operations_change_nothing(tmp_path):
    project = tmp_path / "project"
    kills.renew(project, SHORT)
    assert kills.train(project) == 0
    reference = kills.left(project)
    assert kills.kills_at_writes(project, reference, every=90) > 1
    with pytest.raises(UserError, match=r"before operation 1: different: batches$"):
        kills.kills_at_writes(project, {**reference, "batches": b""}, every=90)


@pytest.mark.parametrize(
    ("step", "taken", "went_on"),
    [
        (2, ["0 8", "0 12"], True),
        (2, [], False),  # nothing more was taken
        (0, ["0 0", "0 4"], False),  # from the start is no going on
    ],
)
def test_going_on_means_with_the_batch_that_comes_next(step, taken, went_on):
    assert kills.went_on(step, taken, ["0 0", "0 4", "0 8", "0 12"]) == went_on


@pytest.mark.parametrize("step", [0, 1, 3])
def test_one_batch_twice_or_left_out_is_no_going_on(step):
    with pytest.raises(UserError, match="another batch than the next"):
        kills.went_on(step, ["0 8"], ["0 0", "0 4", "0 8", "0 12"])


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
    "use": {"deps": {"a/part": "2"}, "outs": {"c": "4"}},
    "last": {"deps": {"c": "4"}, "outs": {"d": "5"}},
}


@pytest.mark.parametrize(
    ("changes", "blamed", "after"),
    [
        ({}, {}, []),
        # Only the stage that read the same is blamed.
        (
            {
                "make": {"deps": {"in": "1"}, "outs": {"a": "9", "b": "3"}},
                "use": {"deps": {"a/part": "9"}, "outs": {"c": "8"}},
            },
            {"make": ["a"]},
            ["use"],
        ),
        # Such as a folder of code with bytecode in it: nothing behind it could be compared, and that is not `the same`.
        (
            {"make": {"deps": {"in": "9"}, "outs": {"a": "9", "b": "3"}}},
            {"make": ["in (an input that no stage made)"]},
            [],
        ),
    ],
)
def test_the_stage_is_blamed_that_read_the_same_and_left_something_else(changes, blamed, after):
    assert repeat.not_reproduced(FIRST, {**FIRST, **changes}) == (blamed, after)


def test_a_stage_that_did_not_end_is_blamed_even_if_it_leaves_nothing():
    first = {**FIRST, "gate": {"deps": {"d": "5"}, "outs": {}}}
    assert repeat.not_reproduced(first, FIRST) == ({"gate": ["did not end"]}, [])
