"""A short run of the real training loop, whose curves ``course/bugs.py`` draws: ``python -m course.bug_run``.

Prints the curves as JSON. It is started in a copy of the project, which may have a bug in it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from unittest import mock

import numpy as np

from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.base.tensors import encode_tensors
from minitrain.dataset.read import read_dataset
from minitrain.dataset.stores import TokenStore
from minitrain.loop import CheckpointDue, Evaluation, train
from minitrain.minitorch import arithmetic
from minitrain.model import MiniGPT
from minitrain.params import ModelConfig, TrainConfig, read_params
from minitrain.scoring import token_nll
from minitrain.training.checkpoint import decode_state, state_tensors
from minitrain.training.state import initial_state

SHORT = {"steps": 300, "warmup_steps": 20, "eval_every": 15, "checkpoint_every": 150}

Curve = list[tuple[float, float]]  # step, value


def run(train_set: TokenStore, val_set: TokenStore, model_config: ModelConfig, config: TrainConfig) -> dict[str, Curve]:
    """The curves of a run, which is stopped at its first regular checkpoint, saved, read back and continued."""
    clipped_norms: Curve = []
    neighbours: Curve = []

    def record(step: int, loss: float, grad_norm: float, grads: Mapping[str, np.ndarray], vocab_size: int) -> None:
        squares = [float(arithmetic.total((grad * grad).reshape(-1))) for grad in grads.values()]
        clipped_norms.append((step, math.sqrt(sum(squares))))

    state = initial_state(model_config, config)
    # check_step comes after clipping, and would stop some bugs at step 0: we want to see where they lead.
    with mock.patch("minitrain.loop.check_step", record):
        for stop in (config.checkpoint_every, config.steps):
            for event in train(state, train_set, val_set, model_config, config):
                if isinstance(event, Evaluation):
                    averaged = MiniGPT.with_weights(model_config, state.model.ema)
                    change = token_nll(averaged, val_set) - token_nll(averaged, val_set, batch_size=1)
                    neighbours.append((event.step, float(np.abs(change).max())))
                if isinstance(event, CheckpointDue) and event.state.step == stop:
                    break
            state = decode_state(encode_tensors(state_tensors(state)), "checkpoint", model_config, config)
    losses, _, norms = zip(*state.log.steps, strict=True)
    return {
        "training loss": list(enumerate(losses)),
        "validation loss": state.log.evaluations,
        "gradient norm": list(enumerate(norms)),
        "gradient norm after clipping": clipped_norms,
        "change by neighbours": neighbours,
    }


def main() -> None:
    params = read_params()
    arithmetic.use(params.model.arithmetic)
    stores = read_dataset(BATCHES, params.model).stores
    config = dataclasses.replace(params.train, **SHORT)
    print(json.dumps(run(stores["train"], stores["val"], params.model, config)))


if __name__ == "__main__":
    run_command(main)
