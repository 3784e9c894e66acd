"""What the benchmarks compare is the same work, and is counted right. No timing here."""

import dataclasses
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, random_store

from benchmarks import machine, seeds, tricks
from benchmarks.compare import check_agreement, product_flops
from benchmarks.contenders import numpy_
from benchmarks.worker import Worker
from benchmarks.workload import Work
from course import plain
from minitrain.base.errors import UserError
from minitrain.base.tensors import encode_tensors
from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import Step, train
from minitrain.training.state import initial_state
from proofs.project import must_run


@pytest.fixture(scope="module")
def work() -> Work:
    return Work(TINY_MODEL, TINY_TRAIN, random_store(20, seed=1))


def test_a_workload_comes_back_from_its_files(work, tmp_path):
    work.save(tmp_path)
    again = Work.load(tmp_path)
    assert (again.model, again.train) == (work.model, work.train)
    for (name, ours), (_, theirs) in zip(vars(work.store).items(), vars(again.store).items(), strict=True):
        assert ours.tobytes() == theirs.tobytes(), name


def test_our_contender_is_the_loop(work):
    contender = numpy_.build(work)
    events = train(initial_state(TINY_MODEL, TINY_TRAIN), work.store, work.store, TINY_MODEL, TINY_TRAIN)
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert [contender.step() for _ in range(TINY_TRAIN.steps)] == losses


def test_our_contenders_first_loss_is_that_of_the_batch_the_peers_take(work):
    results = numpy_.build(work).loss_and_grads()
    plain = dataclasses.replace(TINY_TRAIN, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    first = numpy_.build(dataclasses.replace(work, train=plain)).step()
    assert results["loss"] == pytest.approx([first], rel=1e-6)
    assert set(results) == {"loss", *work.named_weights()}


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


def test_product_flops_of_one_sequence():
    """By hand: 2 m n k for each product forward, twice as much backward."""
    T, C, F, L = 7, TINY_MODEL.d_model, TINY_MODEL.d_ff, TINY_MODEL.n_layers
    block = 2 * T * C * 3 * C + 2 * T * C * C + 2 * (2 * T * C * F) + 2 * (2 * T * T * C)
    assert product_flops(TINY_MODEL, np.array([T])) == 3 * (L * block + 2 * T * C * TINY_MODEL.vocab_size)


def test_a_contender_in_its_own_process_computes_the_same_gradients(work, tmp_path):
    work.save(tmp_path)
    worker = Worker("numpy", tmp_path)
    assert len(worker.ask("steps 2")) == 2
    worker.ask(f"check {tmp_path / 'grads'}")
    assert worker.stop() > 0
    assert (tmp_path / "grads").read_bytes() == encode_tensors(numpy_.build(work).loss_and_grads())


@pytest.mark.parametrize("key", ["loss", "embed.weight"])
def test_a_peer_that_computes_something_else_is_refused(work, tmp_path, key):
    results = {"numpy": numpy_.build(work).loss_and_grads(), "jax": numpy_.build(work).loss_and_grads()}
    results["jax"][key] = results["jax"][key] * np.float32(1 + 1e-4)
    workers = {name: SimpleNamespace(ask=lambda _: None) for name in results}
    for name, tensors in results.items():
        (tmp_path / f"{name}.safetensors").write_bytes(encode_tensors(tensors))
    with pytest.raises(UserError, match=f"jax: {key} differs"):
        check_agreement(workers, tmp_path)


def test_the_environment_of_make_bench_is_enough_and_of_the_locks_versions(root):
    pins, lock = (
        dict(re.findall(r"^([\w-]+)==(\S+)", (root / name).read_text(), re.MULTILINE))
        for name in ("requirements-bench.lock", "requirements.lock")
    )
    assert {"jax", "numpy", "optax", "safetensors", "torch"} <= set(pins)
    assert [name for name, version in pins.items() if lock.get(name, version) != version] == []
    absent = ["dvc", "mlflow", "stages", "tqdm"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); from benchmarks import compare, worker; "
    must_run(root, sys.executable, "-c", f"{code}from benchmarks.contenders import numpy_")


# --- the tricks of the fast code, each taken away --------------------------------------------------------


@pytest.mark.parametrize("trick", tricks.WITHOUT)
def test_each_trick_can_be_taken_away_and_what_is_left_is_python(root, tmp_path, monkeypatch, trick):
    monkeypatch.chdir(root)
    tricks.copy_without(trick, tmp_path / "copy")
    for name, _, _ in tricks.WITHOUT[trick]:
        text = (tmp_path / "copy/minitrain" / name).read_text()
        assert text != (root / "minitrain" / name).read_text()
        compile(text, name, "exec")


def test_a_trick_whose_text_has_changed_is_refused_by_name(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setitem(tricks.WITHOUT, "two threads", [("loop.py", "not there", "")])
    with pytest.raises(UserError, match=r"minitrain/loop\.py: expected once.*'not there'; got it 0 times"):
        tricks.copy_without("two threads", tmp_path / "copy")


def test_the_page_of_tricks_has_a_row_for_each_and_names_what_is_there(root):
    page = (root / tricks.PAGE).read_text()
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| ")][1:]
    assert {row[0].removeprefix("| ") for row in rows} >= set(tricks.WITHOUT) - {tricks.CONTROL}
    for _, where, plain_line, *_ in rows:
        for path, name in re.findall(r"`([\w/]+\.py)`(?:, `([\w.]+)`)?", where):
            assert name.split(".")[-1] in (root / path).read_text()
        for name in re.findall(r"`(\w+)`: ", plain_line):
            assert hasattr(plain, name), name


def test_measured_numbers_go_to_the_last_column():
    page = "| trick | where | gain |\n|---|---|---|\n| a b | here | 1.00 x |\n| c | there | not measured |\n"
    assert tricks.filled(page, {"a b": "2.50 x"}) == page.replace("1.00 x", "2.50 x")


# --- figures and what they are about ---------------------------------------------------------------------


def test_the_table_of_speed_is_about_the_code_as_it_is(root, monkeypatch):
    monkeypatch.chdir(root)
    assert f"measured code {machine.measured_code()}:" in (root / "benchmarks/speed.md").read_text()


def test_measuring_beside_other_work_is_refused(monkeypatch):
    busy = iter((0.0, 0.0, 0.0, 1e6))
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    with (
        pytest.raises(UserError, match=r"^while measuring, other processes took .* expected at most 5%"),
        machine.quiet(),
    ):
        pass


def test_seeds_on_a_cluster_without_dask_say_where_to_look(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)  # not installed
    with pytest.raises(UserError, match=r"--dask tcp://127.0.0.1:8786: .*distributed.*docs/larger.md"):
        next(seeds.run_seeds(None, None, [18], "tcp://127.0.0.1:8786"))
