"""Read ``data/batches/`` back, checked before it is used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitrain.base import UserError, files, formats, tensors
from minitrain.dataset.stores import SPLITS, STORE_SPECS, TokenStore
from minitrain.dataset.tokenizer import Tokenizer
from minitrain.params import ModelConfig

CELL_COLUMNS = ("cell", "verb", "tense", "person", "english_regularity", "spanish_regularity", "split")


@dataclass(frozen=True)
class Dataset:
    """What shard-to-batches left."""

    tokenizer: Tokenizer
    cells: list[dict[str, Any]]  # cell id -> CELL_COLUMNS by name
    stores: dict[str, TokenStore]  # by split
    data_manifest_sha256: str  # of the data manifest that it was made under
    digests: dict[str, str]  # sha256 by file name


def read_dataset(folder: Path, config: ModelConfig) -> Dataset:
    """The content of ``data/batches/``; UserError when something is missing, damaged or does not fit the model."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected the output of shard-to-batches, found no such folder. Make it with: dvc repro "
            "shard-to-batches"
        )
    summary = formats.read_json(folder / "summary.json")
    try:
        digests = {str(name): str(digest) for name, digest in summary["files"].items()}
        data_manifest_sha256 = str(summary["data_manifest_sha256"])
        path = folder / "tokenizer.json"
        tokenizer = Tokenizer.from_json(formats.read_json(path, digests[path.name]))
        cells = decode_cells(formats.read_json(folder / "cells.json", digests["cells.json"]))
        paths = {split: folder / f"{split}.safetensors" for split in SPLITS}
        stores = {
            split: TokenStore(**tensors.load_tensors(path, STORE_SPECS, digests[path.name]))
            for split, path in paths.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / 'summary.json'}: {error!r}. Make it again with: dvc repro --force shard-to-batches"
        ) from error
    if len(tokenizer.tokens) != config.vocab_size:
        raise UserError(
            f"{path}: expected {config.vocab_size} tokens (model.vocab_size), got {len(tokenizer.tokens)}. "
            "Make it again with: dvc repro shard-to-batches"
        )
    for split, store in stores.items():
        store.check(str(paths[split]), config)
    digests["summary.json"] = files.sha256_file(folder / "summary.json")
    return Dataset(tokenizer, cells, stores, data_manifest_sha256, digests)


def decode_cells(value: Any) -> list[dict[str, Any]]:
    """The content of ``cells.json``: a mapping for each cell. ValueError, KeyError or TypeError for anything else."""
    if tuple(value["columns"]) != CELL_COLUMNS:
        raise ValueError(f"expected the columns {', '.join(CELL_COLUMNS)}")
    return [dict(zip(CELL_COLUMNS, row, strict=True)) for row in value["cells"]]
