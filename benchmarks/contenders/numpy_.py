"""This project: the loop of the pipeline itself, minitrain.loop.train."""

import dataclasses

import numpy as np

from benchmarks.workload import Contender, Work
from minitrain.batches import batch_ids, pad
from minitrain.loop import Step, initial_state, train
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT

NEVER = 1 << 30


def build(work: Work) -> Contender:
    """Evaluation and checkpoints are off, as they are in the peers."""
    settings = dataclasses.replace(work.train, eval_every=NEVER, checkpoint_every=NEVER)
    state = initial_state(work.model, settings, work.vocab_size)
    state.evaluations.append((0, 0.0))  # the one before the first step is done, as far as the loop can tell
    steps = (
        event
        for event in train(state, work.store, work.store, work.model, settings, work.vocab_size)
        if isinstance(event, Step)
    )

    def loss_and_grads() -> tuple[float, dict[str, np.ndarray]]:
        model, grads, tape = MiniGPT(work.model, work.vocab_size), np.zeros_like(work.weights), Tape()
        model.bind(work.weights, grads)
        ids, _, _ = batch_ids(len(work.store), work.train.seed, 0, 0, work.train.batch_size)
        shard = pad(work.store, ids)
        loss = model.loss(tape, shard, shard.n_targets)
        tape.backward(loss, np.ones(1, np.float32))
        return float(loss.data[0]), model.views(grads)

    return Contender(lambda: next(steps).loss, loss_and_grads)
