"""The training loop.

``train`` is a generator: it does the arithmetic and yields what happened - a step, an evaluation, a
checkpoint that is due. It touches no file, bar or server; whoever consumes it decides what to write,
draw and log. All that changes is in ``TrainState``, so a run that continues from a saved state, on the
same data and parameters, computes the very bits of one that was never stopped.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from minitrain.dataset.batches import Microshard
from minitrain.dataset.stores import TokenStore
from minitrain.minitorch.optim import clip_by_global_norm
from minitrain.minitorch.tape import Tape
from minitrain.model import Dropout, MiniGPT
from minitrain.params import ModelConfig, TrainConfig
from minitrain.scoring import mean, token_nll
from minitrain.training.checks import check_evaluation, check_state, check_step
from minitrain.training.state import Best, TrainState


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


def train(
    state: TrainState, train_set: TokenStore, val_set: TokenStore, model_config: ModelConfig, config: TrainConfig
) -> Iterator[Event]:
    """Train from ``state`` to ``config.steps``, changing ``state`` in place and yielding what happens.

    Raises UserError when ``state`` fits no such run, the first step shows a broken model, a loss or gradient is not
    finite, or the validation loss has diverged.
    """
    check_state(state, config, len(train_set))
    weights = state.model.weights
    # One replica of the model for each microshard: all read the same weights, each adds to its own row of gradients.
    grads = np.zeros((config.microshards, len(weights)), weights.dtype)
    replicas = [MiniGPT.with_weights(model_config, weights, row) for row in grads]
    averaged = MiniGPT.with_weights(model_config, state.model.ema)
    with ThreadPoolExecutor(n_cores()) as pool:
        while True:
            # Due work comes first, so that step 0 and the end of the run get theirs too.
            step = state.step
            if evaluation_is_due(state, config):
                yield evaluate(state, averaged, val_set)
            if checkpoint_is_due(step, config):
                yield CheckpointDue(state)
            if step == config.steps:
                return
            batch = state.data.next_batch(train_set, config.batch_size, config.microshards)
            loss, grad = loss_and_grads(batch, state.rng, replicas, grads, config, pool)
            grad_norm = clip_by_global_norm(grad, config.clip_norm)  # leaves what is not finite to check_step
            check_step(step, loss, grad_norm, averaged.views(grad), model_config.vocab_size)
            lr = state.scheduler.lr()
            state.optimizer.update(weights, grad, lr)
            state.model.update_average(step, config.ema_decay)
            state.log.steps.append((loss, lr, grad_norm))
            state.scheduler.step += 1  # which is state.step
            yield Step(step, loss, lr, grad_norm)


@np.errstate(over="ignore", invalid="ignore")  # check_step finds what is not finite, and says where
def loss_and_grads(
    batch: list[Microshard],
    rng: np.random.Generator,
    replicas: list[MiniGPT],
    grads: np.ndarray,
    config: TrainConfig,
    pool: Executor,
) -> tuple[float, np.ndarray]:
    """The mean loss of a batch over its real targets, in nats, and its gradient (flat, in ``grads[0]``).

    All seeds are drawn here, before any thread starts, and as many in every step, however many microshards the batch
    has. Losses and gradients are added in the order of microshards; each is a part of the batch's mean already.
    """
    n_targets = sum(shard.n_targets for shard in batch)
    seeds = rng.bit_generator.random_raw(config.microshards).tolist()

    @np.errstate(over="ignore", invalid="ignore")  # each thread has its own
    def forward_backward(index: int) -> float:
        tape, dropout_rng = Tape(), np.random.Generator(np.random.SFC64(seeds[index]))
        dropout = Dropout(config.embed_dropout, config.residual_dropout, config.attention_dropout, dropout_rng)
        grads[index] = 0
        loss = replicas[index].loss(tape, batch[index], n_targets, dropout)
        tape.backward(loss)
        return float(loss.data[0])

    # The first on this thread: to wake one thread less saves a twentieth of the step. Plainly, one batch on one thread:
    # course/plain.py, train_step.
    others = [pool.submit(forward_backward, index) for index in range(1, len(batch))]
    losses = [forward_backward(0), *(other.result() for other in others)]
    loss = losses[0]  # not sum(losses): Python 3.12 adds in another way
    for index in range(1, len(batch)):
        loss += losses[index]
        grads[0] += grads[index]
    return loss, grads[0]


@np.errstate(over="ignore", invalid="ignore")
def evaluate(state: TrainState, averaged: MiniGPT, val_set: TokenStore) -> Evaluation:
    """Score the averaged weights on the validation set; log the loss, and keep the weights if it is the best so far."""
    loss = mean(token_nll(averaged, val_set))
    check_evaluation(state.step, loss)
    state.log.evaluations.append((state.step, loss))
    is_best = loss < state.best.loss
    if is_best:
        state.best = Best(state.step, loss, state.model.ema.copy())
    return Evaluation(state.step, loss, is_best)


def evaluation_is_due(state: TrainState, config: TrainConfig) -> bool:
    """Regularly and at the end, but not again when a run goes on from a checkpoint that was saved after it."""
    last = state.log.evaluations[-1][0] if state.log.evaluations else None
    return (state.step % config.eval_every == 0 or state.step == config.steps) and state.step != last


def checkpoint_is_due(step: int, config: TrainConfig) -> bool:
    """Regularly, at the end, and at the step from which the round-trip stage resumes. Saving again does no harm."""
    return step % config.checkpoint_every == 0 or step in (config.steps, midrun_step(config))


def midrun_step(config: TrainConfig) -> int:
    """Three quarters of the run, and at least one step before its end: the round-trip stage resumes from here."""
    return config.steps - max(1, config.steps // 4)


def n_cores() -> int:
    """How many cores this process may use. Decides the speed alone: sums never depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
