"""The training loop: what it yields, that it learns, that it stops when broken, and that a resumed run is the same run."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, random_store

from minitrain import loop
from minitrain.base import tensors
from minitrain.base.errors import UserError
from minitrain.dataset.batches import pad
from minitrain.loop import CheckpointDue, Evaluation, Step, midrun_step, train
from minitrain.minitorch.tape import Op, Tape
from minitrain.model import MiniGPT
from minitrain.training import checkpoint
from minitrain.training.state import initial_state


def encode(state):
    return tensors.encode_tensors(checkpoint.state_tensors(state))


def run(state, train_set, val_set, config=TINY_TRAIN):
    """Train to the end: the events, and the bytes of every checkpoint that was due, by step."""
    events, saved = [], {}
    for event in train(state, train_set, val_set, TINY_MODEL, config):
        events.append(event)
        if isinstance(event, CheckpointDue):
            saved[event.state.step] = encode(event.state)
    return events, saved


def fresh(config=TINY_TRAIN):
    return initial_state(TINY_MODEL, config)


@pytest.fixture(scope="module")
def whole(train_set, val_set):
    """An uninterrupted run: its events and checkpoints."""
    return run(fresh(), train_set, val_set)


def decode(data, config=TINY_TRAIN):
    return checkpoint.decode_state(data, "state", TINY_MODEL, config)


def test_events_come_in_order(whole):
    events, saved = whole
    kinds = [
        f"eval {e.step}" if isinstance(e, Evaluation) else f"step {e.step}" if isinstance(e, Step) else "save"
        for e in events
    ]
    assert kinds[:3] == ["eval 0", "save", "step 0"]
    assert [kind for kind in kinds if kind.startswith("step")] == [f"step {i}" for i in range(12)]
    assert [kind for kind in kinds if kind.startswith("eval")] == ["eval 0", "eval 4", "eval 8", "eval 12"]
    assert kinds[-2:] == ["eval 12", "save"]
    assert sorted(saved) == [0, 5, 9, 10, 12]
    assert midrun_step(TINY_TRAIN) == 9


def test_the_log_holds_every_step_once(whole):
    events, saved = whole
    steps = [(e.loss, e.lr, e.grad_norm) for e in events if isinstance(e, Step)]
    final = decode(saved[12])
    assert final.log.steps == steps
    assert len({lr for _, lr, _ in steps}) > 5  # the scheduler is stepped
    assert final.log.evaluations == [(e.step, e.loss) for e in events if isinstance(e, Evaluation)]


DIVERGING = dataclasses.replace(TINY_TRAIN, lr=0.5, lr_final=0.5, warmup_steps=0, ema_decay=0.0)


def test_the_best_weights_are_those_of_the_best_evaluation(train_set, val_set):
    state, averages = fresh(DIVERGING), {}
    for event in train(state, train_set, val_set, TINY_MODEL, DIVERGING):
        if isinstance(event, Evaluation):
            averages[event.step] = state.model.ema.copy()
    losses = dict(state.log.evaluations)
    assert state.best.step == min(losses, key=losses.__getitem__) != 12
    assert state.best.loss == losses[state.best.step]
    assert state.best.weights.tobytes() == averages[state.best.step].tobytes()


def test_two_runs_are_the_same_bytes_and_another_seed_is_not(whole, train_set, val_set):
    assert run(fresh(), train_set, val_set)[1] == whole[1]
    other = dataclasses.replace(TINY_TRAIN, seed=4)
    assert run(fresh(other), train_set, val_set, other)[1][12] != whole[1][12]


EIGHT = dataclasses.replace(TINY_TRAIN, batch_size=16, microshards=8)  # as many threads have something to do


@pytest.fixture(scope="module")
def on_one_core(train_set, val_set):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.os, "sched_getaffinity", lambda _: {0}, raising=False)
        return run(fresh(EIGHT), train_set, val_set, EIGHT)[1]


@pytest.mark.parametrize("cores", [2, 3, 8])
def test_the_number_of_cores_changes_no_byte(on_one_core, train_set, val_set, cores, monkeypatch):
    pools = []
    real = loop.ThreadPoolExecutor
    monkeypatch.setattr(loop.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(loop, "ThreadPoolExecutor", lambda n: pools.append(n) or real(n))
    assert run(fresh(EIGHT), train_set, val_set, EIGHT)[1] == on_one_core
    assert pools == [cores]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("scheduler.step", 13),
        ("scheduler.step", -1),
        ("data.epoch", -1),
        ("data.position", 20),
        ("data.position", 2**62),
    ],
)
def test_a_state_that_no_training_can_have_come_to_is_refused(whole, train_set, val_set, path, value):
    """Going on from it would never end."""
    state = decode(whole[1][5])
    part, name = path.split(".")
    setattr(getattr(state, part), name, value)
    with pytest.raises(UserError, match="expected at most 12 steps and a position below 20, got step"):
        run(state, train_set, val_set)


def test_a_gradient_norm_that_overflows_is_not_blamed_on_the_loss(train_set, val_set, monkeypatch):
    real, steep = Tape.backward, Op(lambda loss: (loss, ()), lambda dloss: (dloss * np.float32(1e20),))
    monkeypatch.setattr(Tape, "backward", lambda tape, loss: real(tape, steep(tape, loss)))
    with pytest.raises(UserError, match=r"not finite: the sum of squares \(the largest gradient is in [a-z0-9.]+\)"):
        run(fresh(), train_set, val_set)


@pytest.mark.parametrize("step", [0, 5, 9, 10])
def test_a_run_resumed_from_any_checkpoint_is_the_same_run(whole, train_set, val_set, step):
    _, saved = run(decode(whole[1][step]), train_set, val_set)
    for later, data in saved.items():
        assert data == whole[1][later]


# One part of the state at a time: what a checkpoint would be without it.
LOST = {
    "weights": lambda state: state.model.weights.fill(0.01),
    "a single bit of the weights": lambda state: state.model.weights.view(np.uint32).__setitem__(100, 1),
    "ema": lambda state: state.model.ema.__setitem__(slice(None), state.model.weights),
    "m": lambda state: state.optimizer.m.fill(0),
    "v": lambda state: state.optimizer.v.fill(0),
    "optimizer step": lambda state: setattr(state.optimizer, "t", 0),
    "scheduler step": lambda state: setattr(state.scheduler, "step", state.step - 1),
    "scheduler shape": lambda state: setattr(
        state.scheduler, "shape", dataclasses.replace(state.scheduler.shape, lr=0.02)
    ),
    "data seed": lambda state: setattr(state.data, "seed", 99),
    "data epoch": lambda state: setattr(state.data, "epoch", 0),
    "data position": lambda state: setattr(state.data, "position", 0),
    "rng": lambda state: setattr(state, "rng", np.random.Generator(np.random.PCG64(0))),
    "best so far": lambda state: setattr(state.best, "loss", 0.0),
    "log": lambda state: state.log.steps.pop(),
    "evaluations": lambda state: state.log.evaluations.pop(0),
}


@pytest.mark.parametrize("name", LOST)
def test_losing_any_part_of_the_state_is_noticed(whole, train_set, val_set, name):
    """The negative control of resuming: without any one part, the run ends in other bytes."""
    state = decode(whole[1][5])
    LOST[name](state)
    assert run(state, train_set, val_set)[1][12] != whole[1][12]


@pytest.mark.parametrize(
    "lose",
    [lambda state: setattr(state.best, "step", 99), lambda state: state.best.weights.fill(0.5)],
    ids=["best step", "best weights"],
)
def test_losing_the_best_so_far_is_noticed_where_nothing_better_comes(train_set, val_set, lose):
    _, saved = run(fresh(DIVERGING), train_set, val_set, DIVERGING)
    state = decode(saved[9], DIVERGING)
    assert run(decode(saved[9], DIVERGING), train_set, val_set, DIVERGING)[1][12] == saved[12]
    lose(state)
    assert run(state, train_set, val_set, DIVERGING)[1][12] != saved[12]


def test_it_learns(train_set, val_set):
    config = dataclasses.replace(TINY_TRAIN, steps=150, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    state = fresh(config)
    run(state, train_set, val_set, config)
    assert np.mean([loss for loss, _, _ in state.log.steps[-10:]]) < 0.7 * state.log.steps[0][0]


def test_weight_decay_spares_biases_and_gains(train_set, val_set):
    config = dataclasses.replace(TINY_TRAIN, steps=1, lr=1e-6, lr_final=1e-6, warmup_steps=0, weight_decay=10.0)
    state = fresh(config)
    before = state.model.weights.copy()
    run(state, train_set, val_set, config)
    for name, view in MiniGPT(TINY_MODEL).views(state.model.weights - before).items():
        # AdamW's own first step has size lr; decay adds lr * 10 * weight.
        assert np.abs(view).max() <= (1.1e-6 if view.ndim == 1 else 1e-4), name


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda state: state.model.weights.__imul__(np.float32(30)), "step 0: expected a loss within 0.5 of ln 16"),
        (lambda state: state.model.weights.fill(0), r"step 0: expected a gradient norm in \[0.1, 10.0\], got 0"),
    ],
)
def test_a_broken_first_step_stops_the_run(train_set, val_set, break_it, message):
    state = fresh()
    break_it(state)
    with pytest.raises(UserError, match=message):
        run(state, train_set, val_set)


def test_a_number_that_is_not_finite_stops_the_run_before_the_weights_change(train_set, val_set):
    state = fresh()
    taken = []
    with (
        pytest.raises(UserError, match=r"step 2: .* not finite: .*blocks\.1\.ffn\.up\.weight"),
        np.errstate(all="ignore"),
    ):
        for event in train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN):
            if isinstance(event, Step):
                taken.append(event.step)
                if event.step == 1:
                    MiniGPT(TINY_MODEL).views(state.model.weights)["blocks.1.ffn.up.weight"][0, 0] = np.nan
                    before = state.model.weights.tobytes()
    assert taken == [0, 1]
    assert state.model.weights.tobytes() == before
    assert state.step == len(state.log.steps) == 2


def test_a_single_sequence_and_a_single_step_are_enough():
    config = dataclasses.replace(TINY_TRAIN, steps=1, batch_size=1, microshards=1)
    state = fresh(config)
    one = random_store(1, seed=3)
    _, saved = run(state, one, one, config)
    assert sorted(saved) == [0, 1]
    assert math.isfinite(state.best.loss)


def test_every_microshard_has_dropout_of_its_own():
    """Two microshards with the same sequence: were their generators the same, so would be their gradients."""
    one = random_store(1, seed=3)
    shard = pad(one, np.array([0]))
    state = fresh()
    grads = np.zeros((3, len(state.model.weights)), np.float32)
    replicas = [MiniGPT.with_weights(TINY_MODEL, state.model.weights, grad) for grad in grads]
    with ThreadPoolExecutor(1) as pool:
        loop.loss_and_grads([shard, shard], state.rng, replicas, grads, TINY_TRAIN, pool)
    assert not np.allclose(grads[0] - grads[1], grads[1], atol=1e-5)
