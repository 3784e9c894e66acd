"""What the benchmarks compare is the same work, and is counted right. No timing here."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, random_store

from benchmarks import machine
from benchmarks.compare import check_agreement
from benchmarks.contenders import numpy_
from benchmarks.workload import Work
from minitrain.base.errors import UserError
from minitrain.base.tensors import encode_tensors
from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import Step, train
from minitrain.training.state import initial_state


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(TINY_MODEL, TINY_TRAIN, random_store(20, seed=1))


def test_our_contender_is_the_loop(work):
    contender = numpy_.build(work)
    events = train(initial_state(TINY_MODEL, TINY_TRAIN), work.store, work.store, TINY_MODEL, TINY_TRAIN)
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert [contender.step() for _ in range(TINY_TRAIN.steps)] == losses


def test_peers_take_the_batches_that_the_loop_takes(work, monkeypatch):
    taken, real = [], DataIterator.next_ids
    monkeypatch.setattr(DataIterator, "next_ids", lambda *args: taken.append(real(*args)) or taken[-1])
    contender = numpy_.build(work)
    for _ in range(8):  # two epochs and more
        contender.step()
    monkeypatch.undo()
    for ids, batch, padded in zip(taken[:8], work.batches(), work.padded_batches(), strict=False):
        expected = pad(work.store, ids)
        assert np.array_equal(batch.tokens, expected.tokens)
        assert np.array_equal(batch.targets, expected.targets)
        more = TINY_MODEL.context - batch.tokens.shape[1]
        assert np.array_equal(padded.tokens, np.pad(batch.tokens, ((0, 0), (0, more))))


@pytest.mark.parametrize("key", ["loss", "embed.weight"])
def test_a_peer_that_computes_something_else_is_refused(work, tmp_path, key):
    results = {"numpy": numpy_.build(work).loss_and_grads(), "jax": numpy_.build(work).loss_and_grads()}
    results["jax"][key] = results["jax"][key] * np.float32(1 + 1e-4)
    workers = {name: SimpleNamespace(ask=lambda _: None) for name in results}
    for name, tensors in results.items():
        (tmp_path / f"{name}.safetensors").write_bytes(encode_tensors(tensors))
    with pytest.raises(UserError, match=f"jax: {key} differs"):
        check_agreement(workers, tmp_path)


# --- figures and what they are about ---------------------------------------------------------------------


def test_the_table_of_speed_is_about_the_code_as_it_is(root, monkeypatch):
    monkeypatch.chdir(root)
    assert f"measured code {machine.measured_code()}:" in (root / "benchmarks/speed.md").read_text()
