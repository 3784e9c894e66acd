"""Stage fp16-drift: what would rounding to fp16 or bf16 do to the trained model, layer by layer?

Reads ``models/``, ``data/batches/``. Leaves ``plots/fp16-drift/``.
"""

from minitrain.base import files, layout, process
from minitrain.dataset.read import read_dataset
from minitrain.evaluation import drift, rounding
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from minitrain.training.export import read_model


def main() -> None:
    config = read_params().model
    arithmetic.use(config.arithmetic)
    metrics, changed = drift.measure(read_dataset(layout.BATCHES, config), read_model(layout.MODELS, config))
    files.write_all(layout.PLOTS / "fp16-drift", drift.plots(metrics, changed))
    print("weights and activations rounded, against float32:")
    for fmt in rounding.FORMATS:
        worst = metrics[fmt.name][drift.MODES[1]]
        off, contexts = worst["layers"]["logits"]["relative_l2"], worst["argmax_flip_contexts"]
        how_far = "overflow" if off is None else f"{off:.2e} off"
        flips = f"{contexts} ({worst['argmax_flips']} of {metrics['positions']:,} positions)"
        print(f"{fmt.name}: logits {how_far}; argmax changed, contexts: {flips}")


if __name__ == "__main__":
    process.run_command(main)
