"""How the stages read what an earlier stage left: checked before it is used."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minitrain import files, manifest
from minitrain.batches import SPLITS, STORE_LAYOUT, TokenStore
from minitrain.cells import decode_cells
from minitrain.errors import UserError
from minitrain.model import MiniGPT
from minitrain.params import ModelParams, Params
from minitrain.tokenizer import Tokenizer
from stages.paths import BATCHES, MODELS


@dataclass(frozen=True)
class Batches:
    """What shard-to-batches left."""

    tokenizer: Tokenizer
    cells: list[dict[str, Any]]  # cell id -> name, verb, tense, person, regularity, split
    stores: dict[str, TokenStore]  # by split
    data_manifest: str  # sha256 of the data manifest they were made under
    digests: dict[str, str]  # sha256 by file name


def read_batches(params: Params) -> Batches:
    """The content of ``data/batches/``; UserError when something is missing, damaged or does not fit the parameters."""
    if not BATCHES.is_dir():
        raise UserError(
            f"{BATCHES}: expected the output of shard-to-batches, found no such folder. Make it with: dvc repro "
            "shard-to-batches"
        )
    summary = files.read_json(BATCHES / "summary.json")
    try:
        digests = {str(name): str(digest) for name, digest in summary["files"].items()}
        data_manifest = str(summary["data_manifest_sha256"])
        path = BATCHES / "tokenizer.json"
        tokenizer = Tokenizer.from_json(files.read_json(path, digests["tokenizer.json"]), str(path))
        cells = decode_cells(files.read_json(BATCHES / "cells.json", digests["cells.json"]))
        tensors = {
            split: files.load_tensors(BATCHES / f"{split}.safetensors", STORE_LAYOUT, digests[f"{split}.safetensors"])
            for split in SPLITS
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{BATCHES / 'summary.json'}: {error!r}. Make it again with: dvc repro shard-to-batches"
        ) from error
    if len(tokenizer.tokens) != params.tokenizer.vocab_size:
        raise UserError(
            f"{path}: expected {params.tokenizer.vocab_size} tokens (tokenizer.vocab_size), got "
            f"{len(tokenizer.tokens)}. Make it again with: dvc repro shard-to-batches"
        )
    stores = {split: TokenStore(**arrays) for split, arrays in tensors.items()}
    for split, store in stores.items():
        store.check(str(BATCHES / f"{split}.safetensors"), params.tokenizer.vocab_size, params.model.context)
        if not 0 <= store.cell.min() <= store.cell.max() < len(cells):
            raise UserError(
                f"{BATCHES / split}.safetensors: cell: expected ids of the {len(cells)} cells in cells.json. Make it "
                "again with: dvc repro shard-to-batches"
            )
    digests["summary.json"] = files.sha256_file(BATCHES / "summary.json")
    return Batches(tokenizer, cells, stores, data_manifest, digests)


@dataclass(frozen=True)
class Export:
    """The exported model: its file, its manifest, and its weights as one flat vector."""

    path: Path
    sha256: str
    manifest: dict[str, Any]
    state_digests: dict[str, str]  # sha256 by state machine
    weights: np.ndarray  # flat, float32

    def model(self, dtype: np.typing.DTypeLike = np.float32) -> MiniGPT:
        """A MiniGPT with these weights, computing in ``dtype``."""
        return model_of(
            self.weights,
            ModelParams(**_without(self.manifest["config"]["model"], "vocab_size")),
            self.manifest["config"]["model"]["vocab_size"],
            dtype,
        )


def model_of(
    weights: np.ndarray, config: ModelParams, vocab_size: int, dtype: np.typing.DTypeLike = np.float32
) -> MiniGPT:
    """A MiniGPT with a flat vector of weights, computing in ``dtype``."""
    model = MiniGPT(config, vocab_size)
    own = weights.astype(dtype)
    model.bind(own, np.zeros_like(own))
    return model


def read_model(params: Params) -> Export:
    """The one model in ``models/``; UserError when it is missing, damaged, or of another config than the
    parameters say.
    """
    found = sorted(MODELS.glob("minigpt-phase18-*.manifest.json"))
    if len(found) != 1:
        raise UserError(
            f"{MODELS}: expected one model with its manifest, found {len(found)}. Make it with: dvc repro train"
        )
    content = files.read_json(found[0])
    if not isinstance(content, dict) or content.get("schema_version") != manifest.SCHEMA_VERSION:
        raise UserError(
            f"{found[0]}: key 'schema_version': expected {manifest.SCHEMA_VERSION}. Make the model again with: "
            "dvc repro train"
        )
    config = {**asdict(params.model), "vocab_size": params.tokenizer.vocab_size}
    try:
        if content["config"]["model"] != config:
            raise UserError(
                f"{found[0]}: expected the config of params.yaml {config}, got {content['config']['model']}. "
                "Train it with: dvc repro train"
            )
        path = MODELS / content["model"]
        expected = str(content["files"][path.name])
        state_digests = {str(machine): str(digest) for machine, digest in content["state_digests"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{found[0]}: expected the manifest of a model, got {error!r}. Make the model again with: dvc repro train"
        ) from error
    model = MiniGPT(params.model, params.tokenizer.vocab_size)
    tensors = files.load_tensors(path, weights_layout(model), expected)
    if path.name != model_file_name(expected):
        raise UserError(f"{path}: expected the name {model_file_name(expected)}: it begins with the file's sha256.")
    return Export(path, expected, content, state_digests, flat_weights(model, tensors))


def model_file_name(sha256: str) -> str:
    return f"minigpt-phase18-{sha256[:12]}.safetensors"


def weights_layout(model: MiniGPT) -> files.Layout:
    """dtype and shape of every tensor of a model file."""
    return {name: ("float32", parameter.shape) for name, parameter in model.named_parameters()}


def flat_weights(model: MiniGPT, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The tensors of a model file as one flat vector."""
    flat = np.zeros(model.size, dtype=np.float32)
    for name, view in model.views(flat).items():
        view[:] = tensors[name]
    return flat


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}
