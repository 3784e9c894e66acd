"""Stage train: the training run, from token stores to an exported model.

Reads ``data/batches/``. Leaves ``models/`` and ``plots/train/``, and an MLflow run. A run that was
stopped goes on from its newest working checkpoint in ``checkpoints/`` and leaves the same bytes.
"""

from pathlib import Path

from minitrain.base import files, formats, layout, process
from minitrain.dataset.read import read_dataset
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from minitrain.scoring import perplexity
from minitrain.training import checkpoint, export, manifest, run


def main() -> None:
    params = read_params()
    arithmetic.use(params.model.arithmetic)
    dataset = read_dataset(layout.BATCHES, params.model)
    inputs = manifest.run_inputs(params.model, params.train, dataset)
    folder = layout.checkpoints() / manifest.inputs_digest(inputs)
    # A dvc that is killed may leave its stage at work here; an experiment may train the same setting somewhere else.
    with files.exclusive_lock(Path()), files.exclusive_lock(folder):
        checkpoint.say_what_others_left(folder)
        state = checkpoint.resume(folder, params.model, params.train)
        files.write_bytes(folder / "manifest.json", formats.json_bytes(inputs))

        from minitrain import tracking  # takes its time, and only observes

        times: dict[int, float] = {}
        with tracking.failure_recorded(inputs, state.log, times):
            run.run(state, dataset, params.model, params.train, folder, times)

        evidence = {
            layout.MIDRUN_CHECKPOINT: files.read_bytes(folder / checkpoint.MIDRUN),
            layout.PROBE: export.probe(state, params.model, dataset.stores["val"]),
        }
        files.write_all(layout.MODELS, export.model_files(state, params.model, dataset.tokenizer, inputs, evidence))
        files.write_all(layout.PLOTS / "train", export.training_tables(state))
        print(f"best validation perplexity {perplexity(state.best.loss):.4f} at step {state.best.step}")
        tracking.try_to(tracking.log_run, ["train"], times)
        files.remove_folder(folder)  # at last: DVC knows of the outputs only when the stage has ended


if __name__ == "__main__":
    process.run_command(main)
