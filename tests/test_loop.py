"""The training loop: what it yields, that it learns, that it stops when broken, and that a resumed run is the same run."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, TINY_VOCAB, random_store

from minitrain import checkpoint, files, loop
from minitrain.errors import UserError
from minitrain.loop import CheckpointDue, Evaluation, Step, initial_state, kept_step, train
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT


def encode(state):
    return files.encode_tensors(checkpoint.state_tensors(state))


def run(state, train_set, val_set, params=TINY_TRAIN):
    """Train to the end: the events, and the bytes of every checkpoint that was due, by step."""
    events, saved = [], {}
    for event in train(state, train_set, val_set, TINY_MODEL, params, TINY_VOCAB):
        events.append(event)
        if isinstance(event, CheckpointDue):
            saved[event.state.step] = encode(event.state)
    return events, saved


def fresh(params=TINY_TRAIN):
    return initial_state(TINY_MODEL, params, TINY_VOCAB)


@pytest.fixture(scope="module")
def whole(train_set, val_set):
    """An uninterrupted run: its events and checkpoints."""
    return run(fresh(), train_set, val_set)


def decode(data):
    return checkpoint.state_from_tensors(files.decode_tensors(data, "state"))


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
    assert kept_step(TINY_TRAIN) == 9


def test_the_log_holds_every_step_once(whole):
    events, saved = whole
    steps = [(e.loss, e.lr, e.grad_norm) for e in events if isinstance(e, Step)]
    final = decode(saved[12])
    assert final.log == steps
    assert len({lr for _, lr, _ in steps}) > 5  # the scheduler is stepped
    assert final.evaluations == [(e.step, e.loss) for e in events if isinstance(e, Evaluation)]


def test_the_best_weights_are_those_of_the_best_evaluation(train_set, val_set):
    params = dataclasses.replace(TINY_TRAIN, lr=0.5, lr_final=0.5, warmup_steps=0, ema_decay=0.0)  # diverges
    state, at_best = fresh(params), {}
    for event in train(state, train_set, val_set, TINY_MODEL, params, TINY_VOCAB):
        if isinstance(event, Evaluation):
            at_best[event.step] = state.ema.copy()
    losses = dict(state.evaluations)
    assert state.best_step == min(losses, key=losses.__getitem__) != 12
    assert state.best_weights.tobytes() == at_best[state.best_step].tobytes()


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
    helpers = []
    real = loop.ThreadPoolExecutor
    monkeypatch.setattr(loop.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(loop, "ThreadPoolExecutor", lambda n: helpers.append(n) or real(n))
    assert run(fresh(EIGHT), train_set, val_set, EIGHT)[1] == on_one_core
    assert helpers == [cores - 1]  # beside the main thread


@pytest.mark.parametrize(
    "change", [{"step": 13}, {"step": -1}, {"epoch": -1}, {"position": 20}, {"position": 2**63 - 1}], ids=str
)
def test_a_state_that_no_training_can_have_come_to_is_refused(whole, train_set, val_set, change):
    """Going on from it would never end."""
    state = decode(whole[1][5])
    for name, value in change.items():
        setattr(state, name, value)
    with pytest.raises(UserError, match="expected at most 12 steps and a position below 20, got step"):
        run(state, train_set, val_set)


def test_a_gradient_norm_that_overflows_is_not_blamed_on_the_loss(train_set, val_set, monkeypatch):
    real = Tape.backward
    monkeypatch.setattr(Tape, "backward", lambda tape, loss, grad: real(tape, loss, grad * np.float32(1e20)))
    with pytest.raises(UserError, match=r"not finite: the sum of squares \(the largest gradient is in [a-z0-9.]+\)"):
        run(fresh(), train_set, val_set)


@pytest.mark.parametrize("step", [0, 5, 9, 10])
def test_a_run_resumed_from_any_checkpoint_is_the_same_run(whole, train_set, val_set, step):
    _, saved = run(decode(whole[1][step]), train_set, val_set)
    for later, data in saved.items():
        assert data == whole[1][later]


# One part of the state at a time: what a checkpoint would be without it.
LOST = {
    "weights": lambda state: state.weights.fill(0.01),
    "a single bit of the weights": lambda state: state.weights.view(np.uint32).__setitem__(100, 1),
    "ema": lambda state: state.ema.__setitem__(slice(None), state.weights),
    "m": lambda state: state.adamw.m.fill(0),
    "v": lambda state: state.adamw.v.fill(0),
    "optimizer step": lambda state: setattr(state.adamw, "t", 0),
    "scheduler step": lambda state: setattr(state, "step", state.step - 1),
    "scheduler shape": lambda state: setattr(state, "schedule", dataclasses.replace(state.schedule, lr=0.02)),
    "data seed": lambda state: setattr(state, "data_seed", 99),
    "data epoch": lambda state: setattr(state, "epoch", 0),
    "data position": lambda state: setattr(state, "position", 0),
    "rng": lambda state: setattr(state, "rng", np.random.Generator(np.random.PCG64(0))),
    "best so far": lambda state: setattr(state, "best_loss", 0.0),
    "log": lambda state: state.log.pop(),
    "evaluations": lambda state: state.evaluations.pop(0),
}


@pytest.mark.parametrize("name", LOST)
def test_losing_any_part_of_the_state_is_noticed(whole, train_set, val_set, name):
    """The negative control of resuming: without any one part, the run ends in other bytes."""
    state = decode(whole[1][5])
    LOST[name](state)
    assert run(state, train_set, val_set)[1][12] != whole[1][12]


@pytest.mark.parametrize(
    "lose",
    [lambda state: setattr(state, "best_step", 99), lambda state: state.best_weights.fill(0.5)],
    ids=["best step", "best weights"],
)
def test_losing_the_best_so_far_is_noticed_where_nothing_better_comes(train_set, val_set, lose):
    params = dataclasses.replace(TINY_TRAIN, lr=0.5, lr_final=0.5, warmup_steps=0, ema_decay=0.0)  # diverges
    _, saved = run(fresh(params), train_set, val_set, params)
    state = decode(saved[9])
    assert run(decode(saved[9]), train_set, val_set, params)[1][12] == saved[12]
    lose(state)
    assert run(state, train_set, val_set, params)[1][12] != saved[12]


def test_it_learns(train_set, val_set):
    params = dataclasses.replace(TINY_TRAIN, steps=150, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    state = fresh(params)
    run(state, train_set, val_set, params)
    assert np.mean([loss for loss, _, _ in state.log[-10:]]) < 0.7 * state.log[0][0]


def test_weight_decay_spares_biases_and_gains(train_set, val_set):
    params = dataclasses.replace(TINY_TRAIN, steps=1, lr=1e-6, lr_final=1e-6, warmup_steps=0, weight_decay=10.0)
    state = fresh(params)
    before = state.weights.copy()
    run(state, train_set, val_set, params)
    model = MiniGPT(TINY_MODEL, TINY_VOCAB)
    for name, view in model.views(state.weights - before).items():
        # AdamW's own first step has size lr; decay adds lr * 10 * weight.
        assert np.abs(view).max() <= (1.1e-6 if view.ndim == 1 else 1e-4), name


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda state: state.weights.__imul__(np.float32(30)), "step 0: expected a loss within 0.5 of ln 16"),
        (lambda state: state.weights.fill(0), r"step 0: expected a gradient norm in \[0.1, 10.0\], got 0"),
    ],
)
def test_a_broken_first_step_stops_the_run(train_set, val_set, break_it, message):
    state = fresh()
    break_it(state)
    with pytest.raises(UserError, match=message):
        run(state, train_set, val_set)


def test_a_number_that_is_not_finite_stops_the_run_before_the_weights_change(train_set, val_set):
    state = fresh()
    model = MiniGPT(TINY_MODEL, TINY_VOCAB)
    taken = []
    with (
        pytest.raises(UserError, match=r"step 2: .* not finite: .*blocks\.1\.ffn\.up\.weight"),
        np.errstate(all="ignore"),
    ):
        for event in train(state, train_set, val_set, TINY_MODEL, TINY_TRAIN, TINY_VOCAB):
            if isinstance(event, Step):
                taken.append(event.step)
                if event.step == 1:
                    model.views(state.weights)["blocks.1.ffn.up.weight"][0, 0] = np.nan
                    before = state.weights.tobytes()
    assert taken == [0, 1]
    assert state.weights.tobytes() == before
    assert state.step == len(state.log) == 2


def test_a_single_sequence_and_a_single_step_are_enough():
    params = dataclasses.replace(TINY_TRAIN, steps=1, batch_size=1, microshards=1)
    state = fresh(params)
    one = random_store(1, seed=3)
    _, saved = run(state, one, one, params)
    assert sorted(saved) == [0, 1]
    assert math.isfinite(state.best_loss)
