"""This project: the loop of the pipeline itself, minitrain.loop.train."""

import dataclasses

import numpy as np

from benchmarks.workload import Contender, Work
from minitrain.dataset.batches import DataIterator, pad
from minitrain.loop import Step, train
from minitrain.minitorch import arithmetic
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT
from minitrain.training.state import initial_state


def build(work: Work, variant: str = "") -> Contender:
    """The peers neither evaluate nor save. Nothing is saved here either, and the loop evaluates only before its first
    step, which counts as a part of that step, and after its last.
    """
    arithmetic.use("native" if variant == "native" else "exact")
    config = dataclasses.replace(work.train, eval_every=work.train.steps)
    events = train(initial_state(work.model, config), work.store, work.store, work.model, config)
    steps = (event for event in events if isinstance(event, Step))

    def loss_and_grads() -> dict[str, np.ndarray]:
        tape, grads = Tape(), np.zeros_like(work.weights)
        model = MiniGPT.with_weights(work.model, work.weights, grads)
        shard = pad(work.store, DataIterator(work.train.seed).next_ids(len(work.store), work.train.batch_size))
        loss = model.loss(tape, shard, shard.n_targets)
        tape.backward(loss)
        return {"loss": loss.data, **model.views(grads)}

    return Contender(lambda: next(steps).loss, loss_and_grads)
