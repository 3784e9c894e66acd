"""Stage checkpoint-roundtrip-verify: is what was saved what was in memory, and does a resumed run end in the
same bytes?

Reads ``models/``, ``data/batches/``, in a process of its own. Leaves ``plots/checkpoint-roundtrip-verify/``.
"""

from pathlib import Path
from typing import Any

import numpy as np

from minitrain import checkpoint, files
from minitrain.errors import UserError, run_command
from minitrain.loop import kept_step, train
from minitrain.minitorch.tape import Tape
from minitrain.params import Params, read_params
from stages.inputs import Batches, Export, read_batches, read_model
from stages.paths import EVIDENCE, MODELS, PLOTS


def measure(params: Params, batches: Batches, export: Export) -> dict[str, Any]:
    """Each promise of the checkpoint as true or false, and the sizes of the files. Every comparison is of bytes."""
    stem = export.path.name.removesuffix(".safetensors")
    state_path, kept_path, probe_path = (
        MODELS / f"{stem}.state.safetensors",
        EVIDENCE / "kept.safetensors",
        EVIDENCE / "probe.safetensors",
    )
    size, n_shown = len(export.weights), params.tokenizer.vocab_size

    # Training took the digests from memory, before it wrote the file.

    def digest_of(path: Path) -> str:
        return str(export.manifest["files"].get(path.relative_to(MODELS).as_posix()))

    state = checkpoint.load_state(state_path, size, digest_of(state_path))
    tensors = checkpoint.state_tensors(state)
    digests, recorded = checkpoint.machine_digests(tensors), export.state_digests
    machines = {machine: digest == recorded.get(machine) for machine, digest in digests.items()}

    probe_layout: files.Layout = {"tokens": ("int64", (None, None)), "logits": ("float64", (None, n_shown))}
    probe = files.load_tensors(probe_path, probe_layout, digest_of(probe_path))
    logits = export.model(np.float64).logits(Tape(recording=False), probe["tokens"])

    # Saving what was loaded gives the same file; going on from the kept checkpoint ends in the same state.
    saved = {path: files.read_bytes(path) for path in (export.path, state_path, kept_path)}
    again = {
        export.path: files.encode_tensors(export.model().views(export.weights)),
        state_path: files.encode_tensors(tensors),
    }
    resumed = checkpoint.load_state(kept_path, size, digest_of(kept_path))
    again[kept_path] = files.encode_tensors(checkpoint.state_tensors(resumed))
    kept_at_step = resumed.step
    for _ in train(
        resumed, batches.stores["train"], batches.stores["val"], params.model, params.train, params.tokenizer.vocab_size
    ):
        pass
    return {
        "state_machines": machines,
        "model_file_same_when_saved_again": again[export.path] == saved[export.path],
        "state_file_same_when_saved_again": again[state_path] == saved[state_path],
        "kept_file_same_when_saved_again": again[kept_path] == saved[kept_path],
        "best_weights_are_the_model": state.best_weights.tobytes() == export.weights.tobytes(),
        "fp64_logits_same": logits.tobytes() == probe["logits"].tobytes(),
        "fp64_logits_compared": int(logits.size),
        "kept_step": kept_at_step,
        "kept_at_expected_step": kept_at_step == kept_step(params.train),
        "resumed_run_ends_in_same_state": files.encode_tensors(checkpoint.state_tensors(resumed)) == saved[state_path],
        "bytes": {"model": len(saved[export.path]), "state": len(saved[state_path]), "kept": len(saved[kept_path])},
    }


def failures(metrics: dict[str, Any]) -> list[str]:
    """The names of the promises that do not hold."""
    flat = {**metrics, **{f"state machine {name}": same for name, same in metrics["state_machines"].items()}}
    return [name for name, value in flat.items() if value is False]


def produce() -> None:
    """Write everything that the stage leaves."""
    params = read_params()
    export = read_model(params)
    metrics = measure(params, read_batches(params), export)
    broken = failures(metrics)
    if broken:
        raise UserError(
            f"{export.path}: the round trip does not hold: {', '.join(broken)}. Train again with: dvc repro "
            "--force train"
        )
    files.write_bytes(PLOTS / "checkpoint-roundtrip-verify" / "metrics.json", files.encode_metrics(metrics))
    print(
        f"{export.path.name}: saved == reloaded, all {len(checkpoint.MACHINES)} state machines; resumed from "
        f"step {metrics['kept_step']}: the same bytes"
    )


def main() -> None:
    produce()

    from minitrain import tracking

    tracking.add_results(MODELS, PLOTS, "checkpoint-roundtrip-verify")


if __name__ == "__main__":
    run_command(main)
