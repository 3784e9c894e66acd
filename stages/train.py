"""Stage train: the training run, from token stores to an exported model.

Reads ``data/batches/``. Leaves ``models/`` and ``plots/train/``, and an MLflow run. A run that was
stopped goes on from its newest working checkpoint in ``checkpoints/`` and leaves the same bytes.
"""

import math
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minitrain import checkpoint, files, manifest, numerics, sources
from minitrain.batches import TokenStore, pad
from minitrain.errors import UserError, run_command
from minitrain.loop import CheckpointDue, Evaluation, Step, TrainState, initial_state, kept_step, train
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT
from minitrain.params import Params, read_params
from stages.inputs import Batches, model_file_name, model_of, read_batches
from stages.paths import BATCHES, EVIDENCE, LOCK, MODELS, PLOTS

WORKING = Path("checkpoints")
PROBE_SEQUENCES = 8


def plan(params: Params, batches: Batches) -> dict[str, Any]:
    """The manifest's first half: everything that this run is a function of."""
    return manifest.plan(
        params.model,
        params.train,
        params.tokenizer.vocab_size,
        batches.data_manifest,
        {(BATCHES / name).as_posix(): digest for name, digest in batches.digests.items()},
        sources.code_digest(Path("stages/train.py")),
        files.sha256_file(LOCK),
    )


def start(params: Params, folder: Path, size: int) -> TrainState:
    """The newest whole working checkpoint of this lineage, or a fresh state."""
    state = checkpoint.load_newest(folder, size)
    kept_is_needed = state is not None and state.step > kept_step(params.train)  # it must come out as well
    if kept_is_needed and checkpoint.load_whole(folder / "kept.safetensors", size) is None:
        print("starting over")
        checkpoint.remove_lineage(folder)
        state = None
    if state is None:
        return initial_state(params.model, params.train, params.tokenizer.vocab_size)
    print(f"going on from step {state.step} ({folder})")
    return state


def run(state: TrainState, params: Params, batches: Batches, folder: Path) -> None:
    """Train to the end, saving working checkpoints into ``folder``; a signal saves one more and stops."""
    stopped: list[int] = []
    previous = {
        number: signal.signal(number, lambda got, _: stopped.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    bar = tqdm(
        total=params.train.steps, initial=state.step, desc="train", unit="step", disable=None if sys.stderr else True
    )
    val_loss = state.evaluations[-1][1] if state.evaluations else math.nan
    try:
        for event in train(
            state,
            batches.stores["train"],
            batches.stores["val"],
            params.model,
            params.train,
            params.tokenizer.vocab_size,
        ):
            match event:
                case Step(loss=loss):
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.3f}", val=f"{val_loss:.3f}", refresh=False)
                case Evaluation(step=step, loss=val_loss, is_best=is_best):
                    if bar.disable and (step % (10 * params.train.eval_every) == 0 or step == params.train.steps):
                        print(
                            f"step {step}: val loss {val_loss:.4f}, perplexity "
                            f"{math.exp(val_loss):.4f}{', the best so far' if is_best else ''}"
                        )
                case CheckpointDue(state=due):
                    if due.step == kept_step(params.train):
                        files.save_tensors(folder / "kept.safetensors", checkpoint.state_tensors(due))
                    checkpoint.save_working(folder, due)
            if stopped and isinstance(event, Step):
                checkpoint.save_working(folder, state)
                break
        if stopped:  # after the last step too, where the state has been saved already
            bar.close()
            name = signal.Signals(stopped[0]).name
            print(
                f"stopped by {name} after step {state.step}; saved in {folder}. To go on: dvc repro "
                "(in an experiment: the same dvc exp run)",
                file=sys.stderr,
            )
            sys.exit(128 + stopped[0])
    except UserError as error:
        last = next(iter(checkpoint.newest_first(folder)), "none")
        raise UserError(f"{error} The last checkpoint before: {last}.") from error
    finally:
        bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


def probe(state: TrainState, params: Params, val_set: TokenStore) -> files.Tensors:
    """A few validation sequences and the model's float64 logits for them, computed from the weights in memory."""
    tokens = pad(val_set, np.arange(min(PROBE_SEQUENCES, len(val_set)))).tokens
    model = model_of(state.best_weights, params.model, params.tokenizer.vocab_size, np.float64)
    return {"tokens": tokens.astype(np.int64), "logits": model.logits(Tape(recording=False), tokens)}


def export(
    state: TrainState, params: Params, planned: dict[str, Any], kept: bytes, val_set: TokenStore
) -> dict[str, bytes]:
    """The files of ``models/`` by path, the manifest last."""
    model = MiniGPT(params.model, params.tokenizer.vocab_size)
    weights = files.encode_tensors(model.views(state.best_weights))
    name = model_file_name(files.sha256(weights))
    stem = name.removesuffix(".safetensors")
    tensors = checkpoint.state_tensors(state)
    left = {
        name: weights,
        f"{stem}.state.safetensors": files.encode_tensors(tensors),
        f"{EVIDENCE.name}/kept.safetensors": kept,
        f"{EVIDENCE.name}/probe.safetensors": files.encode_tensors(probe(state, params, val_set)),
    }
    complete = manifest.complete(
        planned,
        name,
        model.size,
        state.step,
        files.rounded(
            {"best_step": state.best_step, "val_loss": state.best_loss, "val_perplexity": math.exp(state.best_loss)}
        ),
        checkpoint.machine_digests(tensors),
        {path: files.sha256(data) for path, data in left.items()},
    )
    return {**left, f"{stem}.manifest.json": files.canonical_json(complete).encode()}


def plots(state: TrainState) -> dict[str, bytes]:
    """The files of ``plots/train/`` by name: every step, every evaluation, the picture of both, the metrics."""
    from minitrain import figures  # matplotlib takes its time: not before it is needed

    steps = [(step, *row) for step, row in enumerate(state.log)]
    evaluations = [(step, loss, math.exp(loss)) for step, loss in state.evaluations]
    first, last = state.log[0], state.log[-1]
    metrics = {
        "steps": state.step,
        "parameters": len(state.weights),
        "best_step": state.best_step,
        "val_loss": state.best_loss,
        "val_perplexity": math.exp(state.best_loss),
        "first_loss": first[0],
        "first_grad_norm": first[2],
        "last_loss": last[0],
    }
    return {
        "log.csv": files.encode_csv(["step", "loss", "lr", "grad_norm"], steps),
        "evaluations.csv": files.encode_csv(["step", "val_loss", "val_perplexity"], evaluations),
        "loss.png": figures.loss_curve(state.log, state.evaluations, state.best_step),
        "metrics.json": files.encode_metrics(metrics),
    }


def produce() -> Path:
    """Write everything that the stage leaves: train, or go on training, then export. Returns the checkpoints'
    folder.
    """
    params = read_params()
    batches = read_batches(params)
    planned = plan(params, batches)
    folder = WORKING / manifest.lineage(planned)
    checkpoint.prune_other_lineages(folder)
    files.remove_strays(folder)

    if planned["numerics"] != numerics.PROMISED:
        different = sorted(key for key, value in numerics.PROMISED.items() if planned["numerics"].get(key) != value)
        print(f"note: equal bytes are not promised on this machine (its {', '.join(different)})")
    state = start(params, folder, MiniGPT(params.model, params.tokenizer.vocab_size).size)
    files.write_json(folder / "manifest.json", planned)
    run(state, params, batches, folder)

    kept = files.read_bytes(folder / "kept.safetensors")
    for old in MODELS.glob("minigpt-phase18-*"):  # of a stage that was run by hand; DVC removes them itself
        files.remove(old)
    files.write_all(MODELS, export(state, params, planned, kept, batches.stores["val"]))
    files.write_all(PLOTS / "train", plots(state))
    print(f"best validation perplexity {math.exp(state.best_loss):.4f} at step {state.best_step}")
    return folder


def main() -> None:
    with files.alone_in(WORKING):  # a dvc that is killed may leave its stage at work
        folder = produce()

        from minitrain import tracking  # mlflow takes its time too, and by now the work is on disk

        print(f"MLflow: {tracking.training_run(MODELS, PLOTS / 'train')} in {tracking.shown_uri()}")
        # Only now is nothing left to do: had MLflow failed, the next try would have had to train again.
        checkpoint.remove_lineage(folder)


if __name__ == "__main__":
    run_command(main)
