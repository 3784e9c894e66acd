"""Run the training loop to its end: save checkpoints that are due, show progress, save once more on a signal."""

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from minitrain.base.errors import UserError
from minitrain.dataset.read import Dataset
from minitrain.loop import CheckpointDue, Evaluation, Step, train
from minitrain.params import ModelConfig, TrainConfig
from minitrain.scoring import perplexity
from minitrain.training import checkpoint
from minitrain.training.state import TrainState


def run(state: TrainState, dataset: Dataset, model_config: ModelConfig, config: TrainConfig, folder: Path) -> None:
    """Train to the end, saving working checkpoints into ``folder``; Ctrl-C or SIGTERM saves one more and exits.

    Raises UserError when the training cannot go on.
    """
    val_loss = state.log.evaluations[-1][1] if state.log.evaluations else math.nan
    # disable=None: no bar where stderr is no terminal.
    bar = tqdm(total=config.steps, initial=state.step, desc="train", unit="step", disable=None)
    with bar, stop_signals() as received:
        try:
            for event in train(state, dataset.stores["train"], dataset.stores["val"], model_config, config):
                match event:
                    case Step(loss=loss):
                        bar.update()
                        bar.set_postfix(loss=f"{loss:.3f}", val=f"{val_loss:.3f}", refresh=False)
                        if received:
                            checkpoint.save_working(folder, state, config)
                            break
                    case Evaluation(step=step, loss=val_loss, is_best=is_best):
                        if bar.disable and (step % (10 * config.eval_every) == 0 or step == config.steps):
                            best = ", the best so far" if is_best else ""
                            print(f"step {step}: val loss {val_loss:.4f}, perplexity {perplexity(val_loss):.4f}{best}")
                    case CheckpointDue():
                        checkpoint.save_working(folder, state, config)
        except UserError as error:
            last = next(iter(checkpoint.newest_first(folder)), "none")
            raise UserError(f"{error} The last checkpoint before: {last}.") from error
    if received:  # after the last step too, where the state has been saved already
        print(
            f"stopped by {received[0].name} after step {state.step}; saved in {folder}. To go on: dvc repro "
            "(in an experiment: the same dvc exp run)",
            file=sys.stderr,
        )
        sys.exit(128 + received[0])


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and SIGTERM instead of dying of them, for as long as the context lasts."""
    received: list[signal.Signals] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda got, _: received.append(signal.Signals(got))) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
