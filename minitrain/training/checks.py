"""Checks that stop a run which cannot be right, before its weights are touched."""

import math
from collections.abc import Mapping

import numpy as np

from minitrain.base.errors import UserError
from minitrain.params import TrainConfig
from minitrain.training.state import TrainState

FIRST_LOSS_TOLERANCE = 0.5  # nats around ln V
FIRST_GRAD_NORM = (0.1, 10.0)
DIVERGED = 50.0  # nats a token; knowing nothing costs ln V


def check_state(state: TrainState, config: TrainConfig, n: int) -> None:
    """Refuse a state that no training over n sequences can have reached: going on from it might never end."""
    data = state.data
    if not (0 <= state.step <= config.steps and data.epoch >= 0 and 0 <= data.position < n):
        raise UserError(
            f"the state to go on from: expected at most {config.steps} steps and a position below {n}, got step "
            f"{state.step}, epoch {data.epoch}, position {data.position}. Remove its file, then run again."
        )


def check_step(step: int, loss: float, grad_norm: float, grads: Mapping[str, np.ndarray], vocab_size: int) -> None:
    """UserError when loss or gradient is not finite, with the tensor's name, or when a first step cannot be right.

    ``grads`` holds the gradients by parameter name.
    """
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


def check_evaluation(step: int, loss: float) -> None:
    """UserError when the validation loss says that the run has diverged, or is not a number."""
    if not loss <= DIVERGED:
        raise UserError(
            f"step {step}: the validation loss is {loss:.4g} nats a token: the run has diverged. "
            "A lower train.lr may help."
        )
