"""Stage checkpoint-roundtrip-verify: is what was saved what was in memory, and does a resumed run end in the
same bytes?

Reads ``models/``, ``data/batches/``, in a process of its own. Leaves ``plots/checkpoint-roundtrip-verify/``.
"""

from minitrain.base import UserError, files, formats, layout, process
from minitrain.dataset.read import read_dataset
from minitrain.evaluation import roundtrip
from minitrain.minitorch import arithmetic
from minitrain.params import read_params
from minitrain.training.export import read_model


def main() -> None:
    params = read_params()
    arithmetic.use(params.model.arithmetic)
    exported = read_model(layout.MODELS, params.model)
    metrics = roundtrip.measure(params.model, params.train, read_dataset(layout.BATCHES, params.model), exported)
    if broken := roundtrip.failures(metrics):
        raise UserError(
            f"{exported.path}: the round trip does not hold: {', '.join(broken)}. Train again with: dvc repro "
            "--force train"
        )
    files.write_bytes(layout.PLOTS / "checkpoint-roundtrip-verify" / "roundtrip.json", formats.metrics_bytes(metrics))
    print(f"{exported.path.name}: reloaded == saved, all state machines")
    print(f"resumed from step {metrics['kept_step']}: ends in the same bytes")


if __name__ == "__main__":
    process.run_command(main)
