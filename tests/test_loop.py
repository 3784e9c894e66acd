"""The training loop: what it yields, that it learns, that it stops when broken, and that a resumed run is the same run."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import TINY_MODEL, TINY_TRAIN, random_store

from minitrain import loop
from minitrain.base.errors import UserError
from minitrain.base.tensors import encode_tensors
from minitrain.dataset.batches import pad
from minitrain.loop import CheckpointDue, Evaluation, Step, midrun_step, train
from minitrain.minitorch.tape import Op, Tape, Tensor
from minitrain.model import MiniGPT
from minitrain.training.checkpoint import decode_state, state_tensors
from minitrain.training.state import initial_state

# 12 steps of so high a rate that the last evaluation is not the best: what is kept of the best one matters to the end.
CONFIG = dataclasses.replace(TINY_TRAIN, lr=0.3)


def fresh(config=CONFIG):
    return initial_state(TINY_MODEL, config)


def run(state, train_set, val_set, config=CONFIG):
    """Train to the end: the events, and the bytes of every checkpoint that was due, by step."""
    events, saved = [], {}
    for event in train(state, train_set, val_set, TINY_MODEL, config):
        events.append(event)
        if isinstance(event, CheckpointDue):
            saved[event.state.step] = encode_tensors(state_tensors(event.state))
    return events, saved


@pytest.fixture(scope="module")
def whole(train_set, val_set):
    """The events and checkpoints of a run that nobody interrupts."""
    return run(fresh(), train_set, val_set)


@pytest.fixture
def resumed(whole):
    """The state as it was saved after nine steps."""
    return decode_state(whole[1][9], "state", TINY_MODEL, CONFIG)


# --- what a run yields -------------------------------------------------------------------------------


def test_evaluations_and_checkpoints_are_due_regularly_at_the_end_and_mid_run(whole):
    events, saved = whole
    assert [type(event) for event in events[:3]] == [Evaluation, CheckpointDue, Step]
    assert [type(event) for event in events[-3:]] == [Step, Evaluation, CheckpointDue]
    assert [event.step for event in events if isinstance(event, Step)] == list(range(12))
    assert [event.step for event in events if isinstance(event, Evaluation)] == [0, 4, 8, 12]
    assert list(saved) == [0, 5, 9, 10, 12]


@pytest.mark.parametrize(("steps", "midrun"), [(1, 0), (2, 1), (7, 6), (12, 9), (2000, 1500)])
def test_mid_run_is_three_quarters_and_a_step_before_the_end(steps, midrun):
    assert midrun_step(dataclasses.replace(CONFIG, steps=steps)) == midrun


def test_the_state_logs_every_event_once(whole):
    events, saved = whole
    log = decode_state(saved[12], "state", TINY_MODEL, CONFIG).log
    assert log.steps == [(event.loss, event.lr, event.grad_norm) for event in events if isinstance(event, Step)]
    assert log.evaluations == [(event.step, event.loss) for event in events if isinstance(event, Evaluation)]


def test_the_best_weights_are_those_of_the_best_evaluation(train_set, val_set):
    state, averages = fresh(), {}
    for event in train(state, train_set, val_set, TINY_MODEL, CONFIG):
        if isinstance(event, Evaluation):
            averages[event.step] = state.model.ema.copy()
            assert event.is_best == (state.best.step == event.step)
    losses = dict(state.log.evaluations)
    assert state.best.step == min(losses, key=losses.__getitem__) == 8
    assert state.best.loss == losses[8]
    assert state.best.weights.tobytes() == averages[8].tobytes()


def test_of_two_equal_evaluations_the_first_stays_the_best(train_set, val_set, monkeypatch):
    monkeypatch.setattr(loop, "mean", lambda nll: 1.0)
    state = fresh()
    events, _ = run(state, train_set, val_set)
    assert [event.is_best for event in events if isinstance(event, Evaluation)] == [True, False, False, False]
    assert state.best.step == 0


def test_it_learns(train_set, val_set):
    config = dataclasses.replace(TINY_TRAIN, steps=150, embed_dropout=0.0, residual_dropout=0.0, attention_dropout=0.0)
    state = fresh(config)
    run(state, train_set, val_set, config)
    assert np.mean([loss for loss, _, _ in state.log.steps[-10:]]) < 0.7 * state.log.steps[0][0]


# --- the same bytes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 5, 9, 10])
def test_a_run_resumed_from_any_checkpoint_is_the_same_run(whole, train_set, val_set, step):
    state = decode_state(whole[1][step], "state", TINY_MODEL, CONFIG)
    _, saved = run(state, train_set, val_set)
    assert saved == {later: data for later, data in whole[1].items() if later >= step}


@pytest.mark.parametrize("lost", state_tensors(fresh()))
def test_losing_any_part_of_the_state_changes_the_bytes(whole, resumed, train_set, val_set, lost):
    """The negative control of resuming, for every tensor of a checkpoint: as if it had not been saved, it has the value
    with which another run begins.
    """
    other = fresh(dataclasses.replace(CONFIG, seed=4, lr=0.2))
    part, field = lost.split(".")
    if part == "rng":
        resumed.rng = other.rng
    else:
        setattr(getattr(resumed, part), field, getattr(getattr(other, part), field))
    assert run(resumed, train_set, val_set)[1][12] != whole[1][12]


def test_the_number_of_cores_changes_no_byte(train_set, val_set, monkeypatch):
    config = dataclasses.replace(CONFIG, batch_size=16, microshards=8)  # as many threads have something to do
    pools, results = [], []
    real = loop.ThreadPoolExecutor
    monkeypatch.setattr(loop, "ThreadPoolExecutor", lambda n: pools.append(n) or real(n))
    for cores in (1, 2, 3, 8):  # that process 0, which is this one, may use
        monkeypatch.setattr(loop.os, "sched_getaffinity", lambda pid, n=cores: {0: set(range(n))}[pid], raising=False)
        results.append(run(fresh(config), train_set, val_set, config)[1])
    assert pools == [1, 2, 3, 8]
    assert all(saved == results[0] for saved in results)
    assert run(fresh(dataclasses.replace(config, seed=4)), train_set, val_set, config)[1] != results[0]


def gradients_of_same_microshards(n_shards):
    """The state after one step's gradients, and those of each of n microshards with the same sequence, then their sum."""
    shard, state = pad(random_store(1, seed=3), np.array([0])), fresh()
    grads = np.zeros((3, len(state.model.weights)), np.float32)
    replicas = [MiniGPT.with_weights(TINY_MODEL, state.model.weights, grad) for grad in grads]
    with ThreadPoolExecutor(1) as pool:
        loop.loss_and_grads([shard] * n_shards, state.rng, replicas, grads, CONFIG, pool)
    return state, grads


def test_every_microshard_has_dropout_of_its_own():
    """Were their generators the same, so would be the gradients of two microshards."""
    _, grads = gradients_of_same_microshards(2)
    assert not np.allclose(grads[0] - grads[1], grads[1], atol=1e-5)


def test_a_step_draws_as_many_seeds_whatever_the_number_of_microshards():
    """A batch may have fewer than config.microshards; what is drawn later must not depend on it."""
    one, three = (gradients_of_same_microshards(n)[0].rng.bit_generator.state for n in (1, 3))
    assert one == three


def test_gradients_whose_sum_overflows_are_left_to_check_step(monkeypatch):
    monkeypatch.setattr(Tape, "backward", lambda tape, loss: None)
    monkeypatch.setattr(
        loop.MiniGPT, "loss", lambda self, tape, *_: (self.embed.weight.grad.fill(3e38), Tensor(np.ones(1)))[1]
    )
    _, grads = gradients_of_same_microshards(2)
    assert np.isinf(grads[0]).any()


# --- a run that goes wrong stops ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("scheduler", "step", 13),
        ("scheduler", "step", -1),
        ("data", "epoch", -1),
        ("data", "position", -1),
        ("data", "position", 20),
    ],
)
def test_a_state_that_no_training_can_have_come_to_is_refused(resumed, train_set, val_set, part, name, value):
    """Going on from it would never end."""
    setattr(getattr(resumed, part), name, value)
    with pytest.raises(UserError, match="expected at most 12 steps and a position below 20, got step"):
        run(resumed, train_set, val_set)


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (30, "step 0: expected a loss within 0.5 of ln 16"),
        (0, r"step 0: expected a gradient norm in \[0.1, 10.0\], got 0"),
    ],
)
def test_a_first_step_that_cannot_be_right_stops_the_run(train_set, val_set, factor, message):
    state = fresh()
    state.model.weights *= np.float32(factor)
    with pytest.raises(UserError, match=message):
        run(state, train_set, val_set)


def test_a_number_that_is_not_finite_is_named_and_stops_the_run_before_the_weights_change(resumed, train_set, val_set):
    MiniGPT(TINY_MODEL).views(resumed.model.weights)["blocks.1.ffn.up.weight"][0, 0] = np.nan
    before = resumed.model.weights.tobytes()
    with pytest.raises(UserError, match=r"step 9: .* not finite: .*blocks\.1\.ffn\.up\.weight"):
        run(resumed, train_set, val_set)
    assert resumed.model.weights.tobytes() == before
    assert resumed.step == len(resumed.log.steps) == 9


@pytest.mark.parametrize("factor", [1e4, 1e38])
def test_a_validation_that_has_diverged_stops_the_run(train_set, val_set, factor):
    state = fresh()
    state.model.ema *= np.float32(factor)
    with pytest.raises(UserError, match="step 0: the validation loss is .*: the run has diverged"):
        run(state, train_set, val_set)


def test_a_gradient_norm_that_overflows_is_not_blamed_on_the_loss(train_set, val_set, monkeypatch):
    real, steep = Tape.backward, Op(lambda loss: (loss, ()), lambda dloss: (dloss * np.float32(1e20),))
    monkeypatch.setattr(Tape, "backward", lambda tape, loss: real(tape, steep(tape, loss)))
    with pytest.raises(UserError, match=r"not finite: the sum of squares \(the largest gradient is in [a-z0-9.]+\)"):
        run(fresh(), train_set, val_set)
