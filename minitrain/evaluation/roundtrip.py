"""Is what was saved what was in memory, and does a resumed run end in the same bytes?"""

from typing import Any

import numpy as np

from minitrain.base import files, layout, tensors
from minitrain.dataset.read import Dataset
from minitrain.loop import midrun_step, train
from minitrain.minitorch.tape import Tape
from minitrain.params import ModelConfig, TrainConfig
from minitrain.training import checkpoint, export


def measure(
    model_config: ModelConfig, config: TrainConfig, dataset: Dataset, exported: export.ExportedModel
) -> dict[str, Any]:
    """Each promise of the checkpoint as true or false, and the sizes of the files. Every comparison is of bytes."""
    folder = exported.path.parent
    state_path, midrun_path = layout.state_path(exported.path), folder / layout.MIDRUN_CHECKPOINT
    state, midrun = (
        checkpoint.load_state(path, model_config, config, exported.digest_of(path))
        for path in (state_path, midrun_path)
    )
    arrays = checkpoint.state_tensors(state)
    recorded = exported.manifest["state_digests"]

    specs: tensors.TensorSpecs = {
        "tokens": ("int64", (None, None)),
        "logits": ("float64", (None, model_config.vocab_size)),
    }
    probe_path = folder / layout.PROBE
    probe = tensors.load_tensors(probe_path, specs, exported.digest_of(probe_path))
    logits = exported.model(np.float64).logits(Tape(recording=False), probe["tokens"])

    # Saving what was loaded gives the same file; going on from the mid-run checkpoint ends in the same state.
    paths = {"model": exported.path, "state": state_path, "kept": midrun_path}
    saved = {kind: files.read_bytes(path) for kind, path in paths.items()}
    again = {
        "model": tensors.encode_tensors(exported.model().views(exported.weights)),
        "state": tensors.encode_tensors(arrays),
        "kept": tensors.encode_tensors(checkpoint.state_tensors(midrun)),
    }
    resumed_at = midrun.step
    for _ in train(midrun, dataset.stores["train"], dataset.stores["val"], model_config, config):
        pass
    resumed, bits_promised = (
        tensors.encode_tensors(checkpoint.state_tensors(midrun)),
        model_config.arithmetic == "exact",
    )
    return {
        "state_machines": {
            part: digest == recorded.get(part) for part, digest in checkpoint.state_digests(arrays).items()
        },
        **{f"{kind}_file_same_when_saved_again": again[kind] == saved[kind] for kind in saved},
        "best_weights_are_the_model": state.best.weights.tobytes() == exported.weights.tobytes(),
        "fp64_logits_same": logits.tobytes() == probe["logits"].tobytes() if bits_promised else None,
        "fp64_logits_compared": int(logits.size),
        "kept_step": resumed_at,
        "kept_at_expected_step": resumed_at == midrun_step(config),
        "resumed_run_ends_in_same_state": resumed == saved["state"] if bits_promised else None,
        "bytes": {kind: len(data) for kind, data in saved.items()},
    }


def failures(metrics: dict[str, Any]) -> list[str]:
    """The names of the promises that do not hold."""
    flat = {**metrics, **{f"state machine {name}": same for name, same in metrics["state_machines"].items()}}
    return [name for name, value in flat.items() if value is False]
