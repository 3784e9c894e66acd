"""State files and working checkpoints."""

import dataclasses
import errno
import os
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN

from minitrain.base import UserError, files
from minitrain.base.tensors import encode_tensors
from minitrain.loop import CheckpointDue, train
from minitrain.training import checkpoint
from minitrain.training.state import initial_state


@pytest.fixture(scope="module")
def arrays(train_set, val_set):
    """The final state of a short run."""
    state = initial_state(TINY_MODEL, TINY_TRAIN)
    list(train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN))
    state.rng.integers(2**31, dtype=np.int32)  # leaves spare bits in the generator: they are state as well
    return checkpoint.state_tensors(state)


# The layout of a state file: who reads old files, or reads them elsewhere, relies on these names.
NAMES = """
    model.weights model.ema optimizer.m optimizer.v optimizer.t scheduler.step scheduler.shape data.seed data.epoch
    data.position rng.state best.step best.loss best.weights log.steps log.evaluations
"""


def test_the_tensors_have_their_names_and_from_the_start_their_types(arrays):
    assert list(arrays) == NAMES.split()
    fresh = checkpoint.state_tensors(initial_state(TINY_MODEL, TINY_TRAIN))
    assert {name: array.dtype for name, array in fresh.items()} == {name: array.dtype for name, array in arrays.items()}


def test_saving_what_was_loaded_is_the_same_file(arrays, tmp_path):
    files.write_bytes(tmp_path / "a", encode_tensors(arrays))
    state = checkpoint.load_state(tmp_path / "a", TINY_MODEL, TINY_TRAIN)
    assert encode_tensors(checkpoint.state_tensors(state)) == (tmp_path / "a").read_bytes()
    assert state.rng.bit_generator.state["has_uint32"] == 1  # the spare bits


def test_each_part_of_the_state_has_a_digest_of_its_own(arrays):
    digests = checkpoint.state_digests(arrays)
    assert list(digests) == ["model", "optimizer", "scheduler", "data", "rng", "best", "log"]
    for name, array in arrays.items():
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[0] ^= 1
        other = checkpoint.state_digests({**arrays, name: changed})
        assert [part for part in digests if digests[part] != other[part]] == [name.split(".")[0]]


@pytest.mark.parametrize(
    ("vocab_size", "change", "message"),
    [
        (17, {}, "another config"),
        (16, {"rng.state": np.full(6, 2**64 - 1, np.uint64)}, "expected a train state, got numbers that cannot be one"),
    ],
)
def test_a_state_of_another_model_or_that_cannot_be_one_is_refused(arrays, vocab_size, change, message):
    model = dataclasses.replace(TINY_MODEL, vocab_size=vocab_size)
    with pytest.raises(UserError, match=f"^a: .*{message}"):
        checkpoint.decode_state(encode_tensors({**arrays, **change}), "a", model, TINY_TRAIN)


# --- working checkpoints -----------------------------------------------------------------------------


@pytest.fixture
def folder(train_set, val_set, tmp_path):
    """What a run of twelve steps leaves."""
    for event in train(initial_state(TINY_MODEL, TINY_TRAIN), train_set, val_set, TINY_MODEL, TINY_TRAIN):
        if isinstance(event, CheckpointDue):
            checkpoint.save_working(tmp_path / "run", event.state, TINY_TRAIN)
    return tmp_path / "run"


def resumed_step(folder):
    return checkpoint.resume(folder, TINY_MODEL, TINY_TRAIN).step


def test_the_mid_run_checkpoint_and_the_two_newest_are_kept(folder):
    names = ["kept.safetensors", "step-000000010.safetensors", "step-000000012.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert checkpoint.load_state(folder / "kept.safetensors", TINY_MODEL, TINY_TRAIN).step == 9


def test_a_run_goes_on_from_its_newest_whole_checkpoint(folder, capsys):
    (folder / ".step-000000015.safetensors.tmp").write_bytes(b"half")
    assert resumed_step(folder) == 12
    newest = folder / "step-000000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert resumed_step(folder) == 10
    assert "a damaged checkpoint: " in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["kept.safetensors", "step-000000010.safetensors"]


@pytest.mark.parametrize("damage", [lambda kept: kept.unlink(), lambda kept: kept.write_bytes(kept.read_bytes()[:-1])])
def test_without_its_mid_run_checkpoint_a_run_past_it_starts_over(folder, capsys, damage):
    damage(folder / "kept.safetensors")
    before = folder.stat()
    state = checkpoint.resume(folder, TINY_MODEL, TINY_TRAIN)
    fresh = initial_state(TINY_MODEL, TINY_TRAIN)
    assert encode_tensors(checkpoint.state_tensors(state)) == encode_tensors(checkpoint.state_tensors(fresh))
    assert list(folder.glob("step-*")) == []
    assert os.path.samestat(before, folder.stat())  # it stays: the run holds a lock on it
    assert re.search(r"kept\.safetensors: .*\nstarting over\n$", capsys.readouterr().out)


def test_without_its_mid_run_checkpoint_a_run_that_has_just_come_to_it_goes_on(folder):
    (folder / "kept.safetensors").rename(folder / "step-000000009.safetensors")
    for later in (10, 12):
        files.remove(folder / f"step-{later:09d}.safetensors")
    assert resumed_step(folder) == 9


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(folder, monkeypatch):
    refused = mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied"))
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(UserError, match="step-000000012.safetensors: cannot be read: Permission denied"):
        resumed_step(folder)
    assert (folder / "step-000000012.safetensors").exists()
