"""This project: the loop of the pipeline itself, minitrain.loop.train."""

import dataclasses

import numpy as np

from benchmarks.workload import Contender, Work
from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import Step, train
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT
from minitrain.training.state import initial_state

NEVER = 10**9  # the largest step that a config may name


def build(work: Work) -> Contender:
    """Evaluation and checkpoints are off, as they are in the peers."""
    config = dataclasses.replace(work.train, eval_every=NEVER, checkpoint_every=NEVER)
    state = initial_state(work.model, config)
    state.log.evaluations.append((0, 0.0))  # the one before the first step is done, as far as the loop can tell
    events = train(state, work.store, work.store, work.model, config)
    steps = (event for event in events if isinstance(event, Step))

    def loss_and_grads() -> tuple[float, dict[str, np.ndarray]]:
        grads, tape = np.zeros_like(work.weights), Tape()
        model = MiniGPT.with_weights(work.model, work.weights, grads)
        shard = pad(work.store, DataIterator(work.train.seed).next_ids(len(work.store), work.train.batch_size))
        loss = model.loss(tape, shard, shard.n_targets)
        tape.backward(loss)
        return float(loss.data[0]), model.views(grads)

    return Contender(lambda: next(steps).loss, loss_and_grads)
