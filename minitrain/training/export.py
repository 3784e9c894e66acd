"""The exported model: the files of ``models/``, made from the state at the end of a run, and read back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from minitrain.base import UserError, files, formats, layout, tensors
from minitrain.dataset import batches, stores
from minitrain.dataset.tokenizer import Tokenizer
from minitrain.minitorch.tape import Tape
from minitrain.model import MiniGPT
from minitrain.params import ModelConfig
from minitrain.scoring import perplexity
from minitrain.training import checkpoint, manifest
from minitrain.training.state import TrainState

PROBE_SEQUENCES = 8


def model_files(
    state: TrainState,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    inputs: Mapping[str, Any],
    evidence: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The files of ``models/`` by name, the manifest last. ``evidence``: the files below ``models/evidence/``."""
    model = MiniGPT(model_config)
    weights = tensors.encode_tensors(model.views(state.best.weights))
    name = Path(layout.model_name(files.sha256(weights)))
    arrays = checkpoint.state_tensors(state)
    content = {
        name.name: weights,
        layout.state_path(name).name: tensors.encode_tensors(arrays),
        layout.TOKENIZER: formats.json_bytes(tokenizer.to_json()),
        **evidence,
    }
    best = {"best_step": state.best.step, "val_loss": state.best.loss, "val_perplexity": perplexity(state.best.loss)}
    complete = {
        **inputs,
        "inputs_digest": manifest.inputs_digest(inputs),
        "model": name.name,
        "parameters": model.size,
        "step": state.step,
        "metrics": formats.rounded(best),
        "state_digests": checkpoint.state_digests(arrays),  # taken from memory, as the next ones
        "files": {path: files.sha256(data) for path, data in content.items()},
    }
    return {**content, layout.manifest_path(name).name: formats.json_bytes(complete)}


def probe(state: TrainState, model_config: ModelConfig, val_set: stores.TokenStore) -> bytes:
    """A few validation sequences and the model's float64 logits for them, computed from the weights in memory."""
    tokens = batches.pad(val_set, np.arange(min(PROBE_SEQUENCES, len(val_set)))).tokens
    model = MiniGPT.with_weights(model_config, state.best.weights.astype(np.float64))
    logits = model.logits(Tape(recording=False), tokens)
    return tensors.encode_tensors({"tokens": tokens.astype(np.int64), "logits": logits})


def training_tables(state: TrainState) -> dict[str, bytes]:
    """The files of ``plots/train/`` by name: every step, every evaluation, the headline numbers."""
    steps = [(step, *row) for step, row in enumerate(state.log.steps)]
    evaluations = [(step, loss, perplexity(loss)) for step, loss in state.log.evaluations]
    metrics = {"best_step": state.best.step, "val_ppl": perplexity(state.best.loss)}
    return {
        "log.csv": formats.csv_bytes(["step", "loss", "lr", "grad_norm"], steps),
        "evaluations.csv": formats.csv_bytes(["step", "val_loss", "val_perplexity"], evaluations),
        "metrics.json": formats.metrics_bytes(metrics),
    }


@dataclass(frozen=True)
class ExportedModel:
    """What is in ``models/``: the model's file, its manifest and tokenizer, its weights as one flat vector."""

    path: Path
    manifest: dict[str, Any]
    config: ModelConfig
    tokenizer: Tokenizer
    weights: np.ndarray  # flat, float32

    def model(self, dtype: np.typing.DTypeLike = np.float32) -> MiniGPT:
        """A MiniGPT with these weights, computing in ``dtype``."""
        return MiniGPT.with_weights(self.config, self.weights.astype(dtype))

    def digest_of(self, path: Path) -> str:
        """The sha256 of a file in ``models/``, which training took from memory before it wrote the file."""
        return str(self.manifest["files"].get(path.relative_to(self.path.parent).as_posix()))


def read_manifest(folder: Path, types: Mapping[str, type] = manifest.TYPES) -> dict[str, Any]:
    """The manifest of the one model in ``models/``; UserError when it is missing or of another schema, or has not what
    ``types`` names.
    """
    found = sorted(folder.glob(f"{layout.MODEL_PREFIX}*.manifest.json"))
    if len(found) != 1:
        raise UserError(
            f"{folder}: expected one model with its manifest, found {len(found)}. Make it with: dvc repro train"
        )
    (path,) = found
    content = formats.read_json(path)
    exact = {
        "schema_version": manifest.SCHEMA_VERSION,
        "model": path.name.replace(".manifest.json", ".safetensors"),  # a name, and no path to anywhere
    }
    for key, expected in {**exact, **types}.items():
        got = content.get(key) if isinstance(content, dict) else content
        if not (isinstance(got, expected) if isinstance(expected, type) else got == expected):
            raise UserError(
                f"{path}: key '{key}': expected {getattr(expected, '__name__', expected)}, got {got!r:.60}. "
                "Make the model again with: dvc repro --force train"
            )
    return content


def read_model(folder: Path, model_config: ModelConfig) -> ExportedModel:
    """The one model in ``models/``, made by the pipeline; UserError when it is missing, damaged, or of another config
    than the parameters say.
    """
    content = read_manifest(folder)
    if content["config"].get("model") != asdict(model_config):
        raise UserError(
            f"{layout.manifest_path(folder / content['model'])}: expected the config of params.yaml "
            f"{asdict(model_config)}, got {content['config'].get('model')}. Train it with: dvc repro train"
        )
    return load_model(folder)


def load_model(folder: Path) -> ExportedModel:
    """The one model in a folder, of the config that its manifest names; UserError when it is missing or damaged."""
    content = read_manifest(folder, manifest.MODEL_TYPES)
    path = folder / content["model"]
    try:
        config = TypeAdapter(ModelConfig).validate_python(content["config"].get("model"))
        tokenizer_digest = str(content["files"].get(layout.TOKENIZER))
        tokenizer = Tokenizer.from_json(formats.read_json(folder / layout.TOKENIZER, tokenizer_digest))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: expected a model's config and a tokenizer, got: {' '.join(str(error).split())}. Make the model "
            "again with: dvc repro --force train"
        ) from error
    model = MiniGPT(config)
    specs = {name: ("float32", parameter.shape) for name, parameter in model.named_parameters()}
    arrays = tensors.load_tensors(path, specs, str(content["files"].get(path.name)))
    weights = np.zeros(model.size, dtype=np.float32)
    for name, view in model.views(weights).items():
        view[:] = arrays[name]
    return ExportedModel(path, content, config, tokenizer, weights)
