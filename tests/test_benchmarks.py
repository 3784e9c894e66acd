"""What the benchmarks compare is the same work, and is counted right. No timing here."""

import dataclasses
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, random_store

from benchmarks import synthetic_shards
from benchmarks.compare import product_flops
from benchmarks.contenders import numpy_
from benchmarks.workload import Work, make_work
from minitrain.corpus.shards import read_corpus
from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import Step, train
from minitrain.training.state import initial_state


@pytest.fixture(scope="module")
def work() -> Work:
    return make_work(TINY_MODEL, TINY_TRAIN, random_store(20, seed=1))


def test_a_workload_comes_back_from_its_file(work, tmp_path):
    work.save(tmp_path / "work.safetensors")
    again = Work.load(tmp_path / "work.safetensors")
    assert (again.model, again.train) == (work.model, work.train)
    assert again.weights.tobytes() == work.weights.tobytes()
    for (name, ours), (_, theirs) in zip(work.store.arrays().items(), again.store.arrays().items(), strict=True):
        assert ours.tobytes() == theirs.tobytes(), name


def test_our_contender_is_the_loop(work):
    contender = numpy_.build(work)
    events = train(initial_state(TINY_MODEL, TINY_TRAIN), work.store, work.store, TINY_MODEL, TINY_TRAIN)
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert [contender.step() for _ in range(TINY_TRAIN.steps)] == losses


def test_our_contenders_first_loss_is_that_of_the_batch_the_peers_take(work):
    loss, grads = numpy_.build(work).loss_and_grads()
    plain = dataclasses.replace(TINY_TRAIN, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    first = numpy_.build(dataclasses.replace(work, train=plain)).step()
    assert loss == pytest.approx(first, rel=1e-6)
    assert set(grads) == set(work.named_weights())
    batch = next(work.batches())
    assert np.count_nonzero(batch.targets) == work.real_tokens(1)


def test_peers_take_the_batches_that_the_loop_takes(work, monkeypatch):
    taken, real = [], DataIterator.next_ids
    with monkeypatch.context() as patch:
        patch.setattr(DataIterator, "next_ids", lambda *args: taken.append(real(*args)) or taken[-1])
        contender = numpy_.build(work)
        for _ in range(8):  # two epochs and more
            contender.step()
    assert len(taken) == 8
    for ids, batch, padded in zip(taken, work.batches(), work.padded_batches(), strict=False):
        expected = pad(work.store, ids)
        assert np.array_equal(batch.tokens, expected.tokens)
        assert np.array_equal(batch.targets, expected.targets)
        width = batch.tokens.shape[1]
        assert padded.tokens.shape == (len(ids), TINY_MODEL.context)
        assert np.array_equal(padded.tokens[:, :width], batch.tokens)
        assert not padded.tokens[:, width:].any()


def test_product_flops_of_one_sequence(work):
    """By hand: 2 m n k for each product forward, twice as much backward."""
    store = random_store(1, seed=2)
    one = dataclasses.replace(work, store=store, train=dataclasses.replace(TINY_TRAIN, batch_size=1))
    T, C, F, L = int(store.lengths[0]) - 1, TINY_MODEL.d_model, TINY_MODEL.d_ff, TINY_MODEL.n_layers
    block = 2 * T * C * 3 * C + 2 * T * C * C + 2 * (2 * T * C * F) + 2 * (2 * T * T * C)
    assert product_flops(one, 1) == 3 * (L * block + 2 * T * C * TINY_MODEL.vocab_size)


def test_synthetic_shards_are_a_corpus(tmp_path):
    synthetic_shards.write(1000, tmp_path)
    corpus = read_corpus(tmp_path / "shards", tmp_path / "MANIFEST.json")
    assert len(corpus.rows) == corpus.manifest()["counts"]["rows"] == 1000
    assert len(corpus.correct_rows) > 500
    assert len({verb.english for verb in itertools.islice(synthetic_shards.verbs(), 5000)}) == 5000


def test_the_environment_of_make_bench_is_enough_and_of_the_locks_versions(root):
    pins, lock = (
        dict(re.findall(r"^([\w-]+)==(\S+)", (root / name).read_text(), re.MULTILINE))
        for name in ("requirements-bench.txt", "requirements.lock")
    )
    assert {name for name, version in pins.items() if lock.get(name) != version} == {"jax", "jaxlib", "optax", "torch"}
    absent = ["dvc", "mlflow", "stages", "tqdm"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from benchmarks import compare, growth, worker; "
    subprocess.run([sys.executable, "-c", f"{code}from benchmarks.contenders import numpy_"], cwd=root, check=True)
