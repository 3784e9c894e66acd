"""The learning rate as a pure function of the step, and the state machine that counts the steps."""

import math
from dataclasses import dataclass

from minitrain.minitorch.arithmetic import cos_sin


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over ``warmup_steps`` to ``lr`` (Goyal et al. 2017, section 2.2), then half a cosine down to
    ``lr_final`` at ``steps`` (Loshchilov & Hutter 2017, equation 5).
    """

    lr: float
    lr_final: float
    warmup_steps: int
    steps: int

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, 2, ...; after the last step it stays at ``lr_final``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
        return self.lr_final + (self.lr - self.lr_final) * 0.5 * (1 + cos_sin(math.pi * progress)[0])


@dataclass
class Scheduler:
    """How many steps have been taken, and the shape of the learning rate over them."""

    step: int
    shape: Schedule

    def lr(self) -> float:
        """The learning rate of the coming step."""
        return self.shape.lr_at(self.step)
