"""Run the training loop to its end: save checkpoints that are due, show progress, save once more on a signal."""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from minitrain.base import UserError, formats, layout
from minitrain.dataset.read import Dataset
from minitrain.dataset.stores import TokenStore
from minitrain.loop import CheckpointDue, Evaluation, Step, train
from minitrain.params import ModelConfig, TrainConfig
from minitrain.scoring import perplexity
from minitrain.training import checkpoint
from minitrain.training.state import TrainState

BAR = "train {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"  # of tqdm, in 80 columns


def run(
    state: TrainState,
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    folder: Path,
    times: dict[int, float],
) -> None:
    """Train to the end, saving working checkpoints into ``folder``; Ctrl-C or SIGTERM saves one more and exits.

    ``times`` gets an entry at the start and after each step: when so many steps had been taken, in seconds since the
    epoch. It is for people to see, and must not reach any output. Raises UserError when the training cannot go on.
    """
    times[state.step] = time.time()
    val_ppl = perplexity(state.log.evaluations[-1][1]) if state.log.evaluations else math.nan
    beside = best_ngram(dataset.stores["val"])
    tokens_per_step = config.batch_size * float((dataset.stores["train"].lengths - 1).mean())
    # disable=None: no bar where stderr is no terminal.
    bar = tqdm(total=config.steps, initial=state.step, bar_format=BAR, disable=None)
    with bar, stop_signals() as received:
        try:
            for event in train(state, dataset.stores["train"], dataset.stores["val"], model_config, config):
                match event:
                    case Step(step=step, loss=loss):
                        times[step + 1] = time.time()
                        bar.update()
                        tokens = tokens_per_step * (bar.format_dict["rate"] or 0)  # a second, lately
                        shown = f"loss {loss:.3f}, val ppl {val_ppl:.2f}{beside}, {tokens / 1000:.0f}k tokens/s"
                        bar.set_postfix_str(shown, refresh=False)
                        if received:
                            checkpoint.save_working(folder, state, config)
                            break
                    case Evaluation(step=step, loss=val_loss, is_best=is_best):
                        val_ppl = perplexity(val_loss)
                        bar.set_postfix_str(f"val ppl {val_ppl:.4f}{beside}")
                        if bar.disable and (step % (10 * config.eval_every) == 0 or step == config.steps):
                            best = ", the best so far" if is_best else ""
                            print(f"step {step}: val perplexity {val_ppl:.4f}{beside}{best}")
                    case CheckpointDue():
                        checkpoint.save_working(folder, state, config)
        except UserError as error:
            last = next(iter(checkpoint.newest_first(folder)), "none")
            raise UserError(f"{error} The last checkpoint before: {last}.") from error
    if received:  # after the last step too, where the state has been saved already
        print(
            f"stopped by {received[0].name} after step {state.step}; saved in {folder}.\n"
            "To go on, run the same command again: make repro, dvc repro or dvc exp run",
            file=sys.stderr,
        )
        sys.exit(128 + received[0])


def best_ngram(val_set: TokenStore) -> str:
    """The perplexity of the best n-gram, in words, if an earlier run compared on as many targets. Only to be shown."""
    path = layout.PLOTS / "baseline-compare" / "scores.json"
    scores = formats.read_json(path)["val"] if path.exists() else {"targets": None}
    known = scores["targets"] == int((val_set.lengths - 1).sum())
    return f" (n-grams {scores['best_baseline_ppl']:.2f})" if known else ""


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
