"""A short training on the real corpus, written down line by line: ``python -m course.short_run FOLDER``.

``course/explain.py`` runs it with the right code and with broken code, and compares the lines. The training of 60 steps
runs once without a stop, and once more, stopped after step 50 and resumed from its newest checkpoint, of step 45.
"""

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from minitrain.base.layout import BATCHES
from minitrain.base.process import run_command
from minitrain.dataset.read import Dataset, read_dataset
from minitrain.loop import CheckpointDue, Evaluation, Step, train
from minitrain.minitorch import arithmetic
from minitrain.params import Params, read_params
from minitrain.scoring import perplexity
from minitrain.training import checkpoint
from minitrain.training.state import TrainState

STOP = 50


def short(params: Params) -> Params:
    """The committed parameters, for 60 steps."""
    config = dataclasses.replace(params.train, steps=60, warmup_steps=10, eval_every=20, checkpoint_every=30)
    return dataclasses.replace(params, train=config)


def lines(params: Params, dataset: Dataset, state: TrainState, folder: Path, prefix: str) -> Iterator[str]:
    """What a training from ``state`` shows, each event as a line; checkpoints go to ``folder``."""
    for event in train(state, dataset.stores["train"], dataset.stores["val"], params.model, params.train):
        match event:
            case Step():
                yield f"{prefix}step {event.step}: loss {event.loss:.6g}"
                yield f"{prefix}step {event.step}: learning rate {event.lr:.4g}"
                yield f"{prefix}step {event.step}: gradient norm {event.grad_norm:.6g}"
            case Evaluation():
                yield f"{prefix}step {event.step}: validation perplexity {perplexity(event.loss):.6g}"
                yield f"{prefix}step {event.step}: best step {state.best.step}"
            case CheckpointDue():
                checkpoint.save_working(folder, event.state, params.train)
                names = " ".join(path.name for path in checkpoint.newest_first(folder))
                yield f"{prefix}step {event.state.step}: checkpoints {names}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.short_run")
    parser.add_argument("folder", type=Path, help="where its checkpoints go")
    folder = parser.parse_args().folder
    params = short(read_params())
    arithmetic.use(params.model.arithmetic)
    dataset = read_dataset(BATCHES, params.model)
    state = checkpoint.resume(folder / "whole", params.model, params.train)
    for line in lines(params, dataset, state, folder / "whole", ""):
        print(line, flush=True)
    print(f"at the end: best step {state.best.step}, {len(state.log.steps)} steps in the log")

    state = checkpoint.resume(folder / "stopped", params.model, params.train)
    for line in lines(params, dataset, state, folder / "stopped", ""):
        if line.startswith(f"step {STOP}:"):
            break
    state = checkpoint.resume(folder / "stopped", params.model, params.train)
    for line in lines(params, dataset, state, folder / "stopped", "resumed, "):
        print(line, flush=True)


if __name__ == "__main__":
    run_command(main)
