"""The plain twin, course/plain.py: in float64, without dropout, on one thread."""

from typing import Any

import numpy as np

from benchmarks.workload import Contender, Work
from course import plain
from minitrain.dataset.batches import DataIterator, Microshard, pad
from minitrain.model import MiniGPT


class _Twin:
    def __init__(self, work: Work) -> None:
        self.work: Any = work  # has ``model`` and ``train``, as Params
        self.data = DataIterator(work.train.seed)
        self.p = MiniGPT(work.model).views(work.weights.astype(np.float64))
        self.state: Any = {name: (0 * theta, 0 * theta, theta) for name, theta in self.p.items()}
        self.n_steps = 0

    def batch(self, data: DataIterator) -> Microshard:
        return pad(self.work.store, data.next_ids(len(self.work.store), self.work.train.batch_size))

    def step(self) -> float:
        self.p, self.state, loss, *_ = plain.train_step(
            self.p, self.state, self.batch(self.data), self.work, self.n_steps
        )
        self.n_steps += 1
        return float(loss)

    def loss_and_grads(self) -> dict[str, np.ndarray]:
        loss, grads = plain.loss_and_grads(self.p, self.batch(DataIterator(self.work.train.seed)), self.work.model)
        return {"loss": np.full(1, loss), **grads}


def build(work: Work, variant: str = "") -> Contender:
    """See course/plain.py."""
    twin = _Twin(work)
    return Contender(twin.step, twin.loss_and_grads)
