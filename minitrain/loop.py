"""The training loop and its five state machines.

``train`` is a generator: it does the arithmetic and yields what happened - a step, an evaluation, a
checkpoint that is due. It touches no file, bar or server; whoever consumes it decides what to write,
draw and log. All that it will ever need to go on is in ``TrainState``, so a run that continues from a
saved state computes the very bits of one that was never stopped.
"""

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from minitrain.batches import Microshard, TokenStore, batch_ids, make_microshards
from minitrain.errors import UserError
from minitrain.minitorch.memory import keep_freed_memory
from minitrain.minitorch.optim import AdamWState, adamw_step, clip_by_global_norm
from minitrain.minitorch.schedule import Schedule
from minitrain.minitorch.tape import Tape
from minitrain.model import Dropout, MiniGPT, initial_weights, token_nll
from minitrain.params import ModelParams, TrainParams

CONTROL_STREAM = 1  # keeps the control RNG apart from the data's (batches.DATA_STREAM)
FIRST_LOSS_TOLERANCE = 0.5  # nats around ln V
FIRST_GRAD_NORM = (0.1, 10.0)
DIVERGED = 50.0  # nats a token; knowing nothing costs ln V


@dataclass
class TrainState:
    """Everything that changes during training. Flat vectors are float32 and laid out as ``MiniGPT.views`` says."""

    # 1. Model: the weights, and their running average, which is what gets evaluated and exported.
    weights: np.ndarray
    ema: np.ndarray
    # 2. Optimizer.
    adamw: AdamWState
    # 3. Scheduler: the number of steps taken, and the shape of the learning rate over them.
    step: int
    schedule: Schedule
    # 4. Data iterator: where in which epoch the next batch starts.
    data_seed: int
    epoch: int
    position: int
    # 5. Control RNG: initialisation, then the dropout of every step.
    rng: np.random.Generator

    # What has been achieved so far.
    best_step: int
    best_loss: float
    best_weights: np.ndarray
    log: list[tuple[float, float, float]]  # loss, lr, grad_norm of each step
    evaluations: list[tuple[int, float]]  # step, validation loss


@dataclass(frozen=True)
class Step:
    """One optimizer step was taken. ``step`` counts from 0; loss in nats; ``grad_norm`` before clipping."""

    step: int
    loss: float
    lr: float
    grad_norm: float


@dataclass(frozen=True)
class Evaluation:
    """The averaged weights after ``step`` steps were scored on the validation set; loss in nats a token."""

    step: int
    loss: float
    is_best: bool


@dataclass(frozen=True)
class CheckpointDue:
    """Now is the time to save the state. The consumer must be done with it before it asks for the next event."""

    state: TrainState


Event = Step | Evaluation | CheckpointDue


def initial_state(model_params: ModelParams, params: TrainParams, vocab_size: int) -> TrainState:
    """The state before the first step: everything follows from the seed."""
    rng = np.random.Generator(np.random.PCG64([params.seed, CONTROL_STREAM]))
    weights = initial_weights(MiniGPT(model_params, vocab_size), rng)
    return TrainState(
        weights=weights,
        ema=weights.copy(),
        adamw=AdamWState.zeros_like(weights),
        step=0,
        schedule=Schedule(params.lr, params.lr_final, params.warmup_steps, params.steps),
        data_seed=params.seed,
        epoch=0,
        position=0,
        rng=rng,
        best_step=0,
        best_loss=math.inf,
        best_weights=weights.copy(),
        log=[],
        evaluations=[],
    )


def train(
    state: TrainState,
    train_set: TokenStore,
    val_set: TokenStore,
    model_params: ModelParams,
    params: TrainParams,
    vocab_size: int,
) -> Iterator[Event]:
    """Train from ``state`` to ``params.steps``, changing ``state`` in place and yielding what happens.

    Raises UserError when the first step shows a broken model, or when a loss or gradient is not finite.
    """
    _check_state(state, params, len(train_set))
    keep_freed_memory()
    # A replica of the model for each microshard: all read the same weights, each has its own gradient, so
    # that threads never meet.
    n_shards = params.microshards
    grads = np.zeros((n_shards, len(state.weights)), dtype=np.float32)
    replicas = [MiniGPT(model_params, vocab_size) for _ in range(n_shards)]
    for replica, grad in zip(replicas, grads, strict=True):
        replica.bind(state.weights, grad)
    averaged = MiniGPT(model_params, vocab_size)
    averaged.bind(state.ema, np.zeros_like(state.ema))
    eval_tape = Tape(recording=False)
    # Of the optimizer: fresh vectors of this size would cost more than the arithmetic.
    scratch = np.empty_like(state.weights)
    decay = np.zeros_like(state.weights)
    for view in replicas[0].views(decay).values():
        view[:] = params.weight_decay if view.ndim == 2 else 0.0  # biases and gains must be free to leave 0

    def run_microshard(index: int, shard: Microshard, n_targets: int, seed: int) -> float:
        """Leave the gradient of one microshard in ``grads[index]`` and return its part of the loss."""
        tape, rng = Tape(), np.random.Generator(np.random.SFC64(seed))
        grads[index] = 0
        dropout = Dropout(params.embed_dropout, params.residual_dropout, params.attention_dropout, rng)
        with np.errstate(over="ignore", invalid="ignore"):  # _check_step finds what is not finite, and says where
            loss = replicas[index].loss(tape, shard, n_targets, dropout)
            tape.backward(loss, np.ones(1, np.float32))
        return float(loss.data[0])

    def run_in_turn(tasks: deque[tuple[int, Microshard, int, int]], losses: list[float]) -> None:
        """Take microshards until none is left, as every thread does at the same time."""
        while True:
            try:
                index, shard, n_targets, seed = tasks.popleft()  # a deque may be shared by threads
            except IndexError:
                return
            losses[index] = run_microshard(index, shard, n_targets, seed)

    n_threads = min(n_shards, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(max(1, n_threads - 1)) as pool:
        while True:
            # Steps + 1 rounds: the last one only evaluates and saves.
            evaluated = any(step == state.step for step, _ in state.evaluations[-1:])  # before the run was stopped
            if (state.step % params.eval_every == 0 or state.step == params.steps) and not evaluated:
                yield _evaluate(state, averaged, val_set, eval_tape)
            if checkpoint_is_due(state.step, params):
                yield CheckpointDue(state)
            if state.step == params.steps:
                return

            # The batch, and the seeds of its dropout: drawn here, in one place, whatever the threads do.
            ids, state.epoch, state.position = batch_ids(
                len(train_set), state.data_seed, state.epoch, state.position, params.batch_size
            )
            shards = make_microshards(train_set, ids, n_shards)
            n_targets = sum(shard.n_targets for shard in shards)  # the loss is the mean over real targets of the batch
            seeds = state.rng.integers(2**63, size=n_shards).tolist()

            # Forward and backward, on this thread too: to wake one thread less saves a twentieth of the step.
            # Losses and gradients are added in the order of microshards, not of threads.
            losses = [math.nan] * len(shards)
            tasks = deque((index, shard, n_targets, seeds[index]) for index, shard in enumerate(shards))
            helpers = [pool.submit(run_in_turn, tasks, losses) for _ in range(n_threads - 1)]
            run_in_turn(tasks, losses)
            for helper in helpers:
                helper.result()
            loss = sum(losses)
            grad = grads[0]
            with np.errstate(over="ignore", invalid="ignore"):
                for other in grads[1 : len(shards)]:
                    grad += other
                grad_norm = clip_by_global_norm(grad, params.clip_norm)

            # The update.
            _check_step(state.step, loss, grad_norm, replicas[0].views(grad), vocab_size)
            lr = float(np.float32(state.schedule.lr_at(state.step)))
            adamw_step(state.weights, grad, state.adamw, lr, (params.beta1, params.beta2), params.eps, decay, scratch)
            _average(state.ema, state.weights, average_decay(state.step, params.ema_decay), scratch)

            state.log.append((loss, lr, grad_norm))
            state.step += 1
            yield Step(state.step - 1, loss, lr, grad_norm)


def checkpoint_is_due(step: int, params: TrainParams) -> bool:
    """Regularly, at the end, and at the step whose checkpoint is kept to prove that a resumed run ends in the
    same bytes.
    """
    return step % params.checkpoint_every == 0 or step in (params.steps, kept_step(params))


def kept_step(params: TrainParams) -> int:
    """The step of the kept mid-run checkpoint: three quarters of the run."""
    return params.steps - max(1, params.steps // 4)


def _evaluate(state: TrainState, averaged: MiniGPT, val_set: TokenStore, tape: Tape) -> Evaluation:
    # Losses and rates are kept in float32's precision: their last float64 bit is the C library's, not ours.
    with np.errstate(over="ignore", invalid="ignore"):
        loss = float(np.float32(token_nll(averaged, val_set, tape).mean()))
    if not loss <= DIVERGED:
        raise UserError(
            f"step {state.step}: the validation loss is {loss:.4g} nats a token: the run has diverged. "
            "A lower train.lr may help."
        )
    state.evaluations.append((state.step, loss))
    is_best = loss < state.best_loss
    if is_best:
        state.best_step, state.best_loss = state.step, loss
        state.best_weights[:] = state.ema
    return Evaluation(state.step, loss, is_best)


def average_decay(step: int, decay: float) -> float:
    """How much of the running average is kept at a step: less at first, when it still holds the initial weights."""
    return min(decay, (1 + step) / (10 + step))


def _average(ema: np.ndarray, weights: np.ndarray, decay: float, scratch: np.ndarray) -> None:
    """Move the running average towards the weights."""
    np.subtract(weights, ema, out=scratch)
    ema += np.multiply(scratch, np.float32(1 - decay), out=scratch)


def _check_state(state: TrainState, params: TrainParams, n: int) -> None:
    """Refuse a state that no training over n sequences can have come to: going on from it might never end."""
    if not (0 <= state.step <= params.steps and state.epoch >= 0 and 0 <= state.position < n):
        raise UserError(
            f"the state to go on from: expected at most {params.steps} steps and a position below {n}, got step "
            f"{state.step}, epoch {state.epoch}, position {state.position}. Remove its file, then run again."
        )


def _check_step(step: int, loss: float, grad_norm: float, grads: dict[str, np.ndarray], vocab_size: int) -> None:
    """Stop a run that cannot be right, before its weights are touched."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        broken = [] if math.isfinite(loss) else ["loss"]
        broken += [name for name, grad in grads.items() if not np.isfinite(grad).all()]
        largest = max(grads, key=lambda name: float(np.abs(grads[name]).max()))
        raise UserError(
            f"step {step}: the loss is {loss}, the gradient norm {grad_norm}; not finite: "
            f"{', '.join(broken) or f'the sum of squares (the largest gradient is in {largest})'}. "
            "A lower train.lr may help."
        )
    if step > 0:
        return
    expected = math.log(vocab_size)
    if abs(loss - expected) > FIRST_LOSS_TOLERANCE:
        raise UserError(
            f"step 0: expected a loss within {FIRST_LOSS_TOLERANCE} of ln {vocab_size} = {expected:.3f}, as of "
            f"a model that knows nothing, got {loss:.3f}. "
            "Look at the initialisation, the shift between tokens and targets, and the reduction of the loss."
        )
    low, high = FIRST_GRAD_NORM
    if not low <= grad_norm <= high:
        raise UserError(
            f"step 0: expected a gradient norm in [{low}, {high}], got {grad_norm:.3g}. Look at the "
            "initialisation and at the reduction of the loss (mean, not sum)."
        )
