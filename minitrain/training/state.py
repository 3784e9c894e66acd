"""The train state: five state machines - model, optimizer, scheduler, data, rng - and the best and the log so far.

A checkpoint holds every field of every part, under the same path: the tensor ``optimizer.m`` is ``state.optimizer.m``.
Only the generator is no dataclass; its state is the tensor ``rng.state``.
"""

import math
from dataclasses import dataclass

import numpy as np

from minitrain.dataset.batches import DataIterator
from minitrain.minitorch.optim import Optimizer, new_optimizer
from minitrain.minitorch.schedule import Schedule, Scheduler
from minitrain.model import MiniGPT, initial_weights
from minitrain.params import ModelConfig, TrainConfig

CONTROL_STREAM = 1  # keeps the control RNG apart from the data's (dataset.batches.DATA_STREAM)


@dataclass
class ModelState:
    """The weights, and their running average, which is what gets evaluated and exported. Flat, float32."""

    weights: np.ndarray
    ema: np.ndarray

    def update_average(self, step: int, decay: float) -> None:
        """Move the average towards the weights."""
        share = 1 - average_decay(step, decay)
        self.ema += (self.weights - self.ema) * np.float32(share)


def average_decay(step: int, decay: float) -> float:
    """How much of the average stays at a step: a tenth at first, since it still holds the initial weights, then more,
    until ``decay`` is reached (the usual warm-up of an average, as in TensorFlow's ExponentialMovingAverage).
    """
    return min(decay, (1 + step) / (10 + step))


@dataclass
class Best:
    """The best evaluation so far: its step, its loss in nats a token, and the averaged weights that it scored."""

    step: int
    loss: float
    weights: np.ndarray


@dataclass
class Log:
    """The history of the run."""

    steps: list[tuple[float, float, float]]  # loss, lr, grad_norm of each step
    evaluations: list[tuple[float, float]]  # step (a whole number), validation loss


@dataclass
class TrainState:
    """Everything that changes during training. Flat vectors are float32 and laid out as ``MiniGPT.views`` says."""

    model: ModelState
    optimizer: Optimizer
    scheduler: Scheduler
    data: DataIterator  # where in which epoch the next batch starts
    rng: np.random.Generator  # the control RNG: initialisation, then the dropout of every step

    best: Best
    log: Log

    @property
    def step(self) -> int:
        """The number of steps taken, which the scheduler counts."""
        return self.scheduler.step


def initial_state(model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The state before the first step: everything follows from the seed."""
    rng = np.random.Generator(np.random.PCG64([config.seed, CONTROL_STREAM]))
    model = MiniGPT(model_config)
    weights = initial_weights(model, rng)
    is_matrix = np.zeros_like(weights)  # 1.0 for the numbers of 2-D parameters, which alone decay
    for view in model.views(is_matrix).values():
        view[:] = view.ndim == 2
    return TrainState(
        model=ModelState(weights, weights.copy()),
        optimizer=new_optimizer(config, weights, is_matrix),
        scheduler=Scheduler(0, Schedule(config.lr, config.lr_final, config.warmup_steps, config.steps)),
        data=DataIterator(config.seed),
        rng=rng,
        best=Best(0, math.inf, weights.copy()),  # none yet: any evaluation is better
        log=Log([], []),
    )
