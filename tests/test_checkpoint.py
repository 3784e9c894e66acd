"""State files and working checkpoints."""

import errno

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, TINY_VOCAB

from minitrain import checkpoint, files
from minitrain.errors import UserError
from minitrain.loop import CheckpointDue, initial_state, train


@pytest.fixture(scope="module")
def tensors(train_set, val_set):
    """The final state of a short run."""
    state = initial_state(TINY_MODEL, TINY_TRAIN, TINY_VOCAB)
    for _ in train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN, TINY_VOCAB):
        pass
    state.rng.integers(2**31, dtype=np.int32)  # leaves spare bits in the generator: they are state as well
    return checkpoint.state_tensors(state)


def test_saving_what_was_loaded_is_the_same_file(tensors, tmp_path):
    size = len(tensors["model.weights"])
    files.save_tensors(tmp_path / "a", tensors)
    state = checkpoint.load_state(tmp_path / "a", size)
    files.save_tensors(tmp_path / "b", checkpoint.state_tensors(state))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_generator_goes_on_where_it_was(tensors):
    rng = checkpoint.state_from_tensors(tensors).rng
    twin = checkpoint.state_from_tensors(tensors).rng
    assert rng.bit_generator.state["has_uint32"] == 1
    assert rng.integers(2**31, size=5, dtype=np.int32).tolist() == twin.integers(2**31, size=5, dtype=np.int32).tolist()


def test_each_state_machine_has_a_digest_of_its_own(tensors):
    digests = checkpoint.machine_digests(tensors)
    assert tuple(digests) == (*checkpoint.MACHINES, *checkpoint.ACHIEVED)
    assert {name.split(".")[0] for name in tensors} == set(digests)
    for name, array in tensors.items():
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[0] ^= 1
        other = checkpoint.machine_digests({**tensors, name: changed})
        assert [machine for machine in digests if digests[machine] != other[machine]] == [name.split(".")[0]]


def test_a_state_of_another_model_is_refused(tensors, tmp_path):
    files.save_tensors(tmp_path / "a", tensors)
    with pytest.raises(UserError, match="another config"):
        checkpoint.load_state(tmp_path / "a", 103_680)


def test_numbers_that_can_be_no_generator_are_refused(tensors, tmp_path):
    wrong = np.full(6, 2**64 - 1, np.uint64)
    files.save_tensors(tmp_path / "a", {**tensors, "rng.state": wrong})
    with pytest.raises(UserError, match="a: expected a train state, got numbers that cannot be one"):
        checkpoint.load_state(tmp_path / "a", len(tensors["model.weights"]))


def test_working_checkpoints_are_pruned_and_the_newest_whole_one_is_found(train_set, val_set, tmp_path, capsys):
    folder = tmp_path / "lineage"
    state = initial_state(TINY_MODEL, TINY_TRAIN, TINY_VOCAB)
    assert checkpoint.load_newest(folder, len(state.weights)) is None
    for event in train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN, TINY_VOCAB):
        if isinstance(event, CheckpointDue):
            checkpoint.save_working(folder, event.state)
    assert [path.name for path in sorted(folder.iterdir())] == [
        "step-000000010.safetensors",
        "step-000000012.safetensors",
    ]
    assert checkpoint.load_newest(folder, len(state.weights)).step == 12
    newest = folder / "step-000000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert checkpoint.load_newest(folder, len(state.weights)).step == 10
    assert not newest.exists()
    assert "a damaged checkpoint: " in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(tensors, tmp_path, monkeypatch):
    path, size = tmp_path / "step-000000005.safetensors", len(tensors["model.weights"])
    files.save_tensors(path, tensors)

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(UserError, match="step-000000005.safetensors: cannot be read: Permission denied"):
        checkpoint.load_newest(tmp_path, size)
    monkeypatch.undo()
    assert checkpoint.load_newest(tmp_path, size) is not None


def test_other_lineages_are_removed(tmp_path):
    old, mine, somebodys = "0123456789abcdef", "fedcba9876543210", "notes"
    for name in (old, mine, somebodys):
        files.write_bytes(tmp_path / name / "step-000000001.safetensors", b"x")
    checkpoint.prune_other_lineages(tmp_path / mine)
    assert {path.name for path in tmp_path.iterdir()} == {mine, somebodys}
    checkpoint.prune_other_lineages(tmp_path / "nowhere" / "mine")
