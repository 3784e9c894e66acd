"""Stage baseline-compare: does the model beat the n-gram baselines on cells that it has never seen?

Reads ``models/``, ``data/batches/``. Leaves ``plots/baseline-compare/``, and the picture of the training, since
training itself does not draw.
"""

from minitrain.base import files, layout, process
from minitrain.dataset.read import read_dataset
from minitrain.evaluation import baselines, cells
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from minitrain.training import checkpoint, export


def main() -> None:
    params = read_params()
    arithmetic.use(params.model.arithmetic)
    exported = export.read_model(layout.MODELS, params.model)
    dataset = read_dataset(layout.BATCHES, params.model)
    metrics = baselines.measure(params.ngram, dataset, exported)
    files.write_all(layout.PLOTS / "baseline-compare", baselines.plots(metrics) | cells.tables(dataset, exported))
    state = checkpoint.load_state(layout.state_path(exported.path), params.model, params.train)
    files.write_all(layout.PLOTS / "train", baselines.training_picture(state))
    for split, m in metrics.items():
        print(
            f"{split}: model {m['model_ppl']:.4f}, best n-gram {m['best_baseline_ppl']:.4f}, "
            f"ratio {m['ratio_to_best_baseline']:.4f}, floor {m['floor_ppl']:.4f}"
        )


if __name__ == "__main__":
    process.run_command(main)
