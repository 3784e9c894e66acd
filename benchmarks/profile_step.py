"""Where the time of a training step goes: ``make profile``.

Forward and backward passes over the canonical batches under Python's profiler, one microshard after the other on one
thread, and the time of every operation. Batches, clipping, AdamW and the average of the weights, some 4 % of a step,
come on top.
"""

import cProfile
import pstats

import numpy as np

from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.batches import DataIterator
from minitrain.dataset.read import read_dataset
from minitrain.minitorch.tape import Tape
from minitrain.model import Dropout, MiniGPT
from minitrain.params import read_params
from minitrain.training.state import initial_state

STEPS = 200


def main() -> None:
    params = read_params()
    train, store = params.train, read_dataset(BATCHES, params.model).stores["train"]
    weights = initial_state(params.model, train).model.weights
    model = MiniGPT.with_weights(params.model, weights, np.zeros_like(weights))
    profiler, data, rng = cProfile.Profile(), DataIterator(train.seed), np.random.Generator(np.random.SFC64(0))
    for _ in range(STEPS):
        shards = data.next_batch(store, train.batch_size, train.microshards)
        n_targets = sum(shard.n_targets for shard in shards)
        with profiler:
            for shard in shards:
                tape = Tape()
                dropout = Dropout(train.embed_dropout, train.residual_dropout, train.attention_dropout, rng)
                tape.backward(model.loss(tape, shard, n_targets, dropout))

    stats = pstats.Stats(profiler).get_stats_profile()
    seconds = {
        name: function.cumtime
        for name, function in stats.func_profiles.items()
        if name.endswith(("_forward", "_backward"))
    }
    seconds["dropout masks, tape, Python"] = stats.total_tt - sum(seconds.values())
    seconds["the whole step"] = stats.total_tt
    for name, of_name in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:30s}{1e3 * of_name / STEPS:8.3f} ms{of_name / stats.total_tt:8.1%}")


if __name__ == "__main__":
    run_command(main)
