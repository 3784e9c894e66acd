"""Where the time of a training step goes: ``make profile``.

The training loop on the canonical batches under Python's profiler, on one thread, and the time of every operation.
"""

import cProfile
import dataclasses
import pstats

from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.read import read_dataset
from minitrain.loop import train
from minitrain.params import read_params
from minitrain.training.state import initial_state

STEPS = 200


def main() -> None:
    params = read_params()
    stores = read_dataset(BATCHES, params.model).stores
    config = dataclasses.replace(params.train, steps=STEPS, eval_every=STEPS, microshards=1)
    with cProfile.Profile() as profiler:
        for _ in train(initial_state(params.model, config), stores["train"], stores["val"], params.model, config):
            pass
    stats = pstats.Stats(profiler).get_stats_profile()
    seconds = {
        name: function.cumtime
        for name, function in stats.func_profiles.items()
        if name.endswith(("_forward", "_backward")) and name != "forward_backward"  # which calls them all
    }
    seconds["AdamW, dropout masks, batches, tape"] = stats.total_tt - sum(seconds.values())
    seconds["the whole step"] = stats.total_tt
    for name, of_name in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:35s}{1e3 * of_name / STEPS:8.3f} ms{of_name / stats.total_tt:8.1%}")


if __name__ == "__main__":
    run_command(main)
