"""State files and working checkpoints."""

import dataclasses
import errno

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN

from minitrain.base import files
from minitrain.base.errors import UserError
from minitrain.base.tensors import encode_tensors
from minitrain.loop import CheckpointDue, train
from minitrain.training import checkpoint
from minitrain.training.state import initial_state


@pytest.fixture(scope="module")
def arrays(train_set, val_set):
    """The final state of a short run."""
    state = initial_state(TINY_MODEL, TINY_TRAIN)
    for _ in train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN):
        pass
    state.rng.integers(2**31, dtype=np.int32)  # leaves spare bits in the generator: they are state as well
    return checkpoint.state_tensors(state)


def decode(arrays, model_config=TINY_MODEL):
    return checkpoint.decode_state(encode_tensors(arrays), "a", model_config, TINY_TRAIN)


# The layout of a state file: who reads old files, or reads them elsewhere, relies on these names.
NAMES = """
    model.weights model.ema optimizer.m optimizer.v optimizer.t scheduler.step scheduler.shape data.seed data.epoch
    data.position rng.state best.step best.loss best.weights log.steps log.evaluations
"""


def test_the_tensors_have_their_names(arrays):
    assert list(arrays) == NAMES.split()
    fresh = checkpoint.state_tensors(initial_state(TINY_MODEL, TINY_TRAIN))
    assert {name: array.dtype for name, array in fresh.items()} == {name: array.dtype for name, array in arrays.items()}


def test_saving_what_was_loaded_is_the_same_file(arrays, tmp_path):
    files.write_bytes(tmp_path / "a", encode_tensors(arrays))
    state = checkpoint.load_state(tmp_path / "a", TINY_MODEL, TINY_TRAIN)
    assert encode_tensors(checkpoint.state_tensors(state)) == (tmp_path / "a").read_bytes()


def test_the_generator_goes_on_where_it_was(arrays):
    rng, twin = decode(arrays).rng, decode(arrays).rng
    assert rng.bit_generator.state["has_uint32"] == 1
    assert rng.integers(2**31, size=5, dtype=np.int32).tolist() == twin.integers(2**31, size=5, dtype=np.int32).tolist()


def test_each_part_of_the_state_has_a_digest_of_its_own(arrays):
    digests = checkpoint.state_digests(arrays)
    assert list(digests) == ["model", "optimizer", "scheduler", "data", "rng", "best", "log"]
    for name, array in arrays.items():
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[0] ^= 1
        other = checkpoint.state_digests({**arrays, name: changed})
        assert [part for part in digests if digests[part] != other[part]] == [name.split(".")[0]]


def test_a_state_of_another_model_is_refused(arrays):
    with pytest.raises(UserError, match="another config"):
        decode(arrays, dataclasses.replace(TINY_MODEL, vocab_size=17))


def test_numbers_that_can_be_no_generator_are_refused(arrays):
    with pytest.raises(UserError, match="a: expected a train state, got numbers that cannot be one"):
        decode({**arrays, "rng.state": np.full(6, 2**64 - 1, np.uint64)})


def test_working_checkpoints_are_pruned_and_the_newest_whole_one_is_found(train_set, val_set, tmp_path, capsys):
    folder = tmp_path / "run"
    state = checkpoint.resume(folder, TINY_MODEL, TINY_TRAIN)
    assert state.step == 0
    for event in train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN):
        if isinstance(event, CheckpointDue):
            checkpoint.save_working(folder, event.state, TINY_TRAIN)
    assert sorted(path.name for path in folder.iterdir()) == [
        "kept.safetensors",
        "step-000000010.safetensors",
        "step-000000012.safetensors",
    ]
    assert checkpoint.load_state(folder / "kept.safetensors", TINY_MODEL, TINY_TRAIN).step == 9
    assert checkpoint.resume(folder, TINY_MODEL, TINY_TRAIN).step == 12
    newest = folder / "step-000000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert checkpoint.resume(folder, TINY_MODEL, TINY_TRAIN).step == 10
    assert not newest.exists()
    assert "a damaged checkpoint: " in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(arrays, tmp_path, monkeypatch):
    for name in ("step-000000012.safetensors", "kept.safetensors"):
        files.write_bytes(tmp_path / name, encode_tensors(arrays))

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(UserError, match="step-000000012.safetensors: cannot be read: Permission denied"):
        checkpoint.resume(tmp_path, TINY_MODEL, TINY_TRAIN)
    monkeypatch.undo()
    assert checkpoint.resume(tmp_path, TINY_MODEL, TINY_TRAIN).step == 12


def test_other_runs_are_removed(tmp_path):
    old, mine, somebodys = "0123456789abcdef", "fedcba9876543210", "notes"
    for name in (old, mine, somebodys):
        files.write_bytes(tmp_path / name / "step-000000001.safetensors", b"x")
    checkpoint.remove_other_runs(tmp_path / mine)
    assert {path.name for path in tmp_path.iterdir()} == {mine, somebodys}
    checkpoint.remove_other_runs(tmp_path / "nowhere" / "mine")
