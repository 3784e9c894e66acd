"""Read ``data/batches/`` back, checked before it is used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitrain.base import UserError, files, formats, layout, tensors
from minitrain.dataset.stores import SPLITS, STORE_SPECS, TokenStore
from minitrain.dataset.tokenizer import Tokenizer
from minitrain.params import ModelConfig


@dataclass(frozen=True)
class Dataset:
    """What shard-to-batches left."""

    tokenizer: Tokenizer
    cells: list[dict[str, Any]]  # cell id -> its columns by name
    stores: dict[str, TokenStore]  # by split
    data_manifest_sha256: str  # of the data manifest that it was made under
    digests: dict[str, str]  # sha256 by file name


def read_dataset(folder: Path, config: ModelConfig) -> Dataset:
    """The content of ``data/batches/``; UserError when something is missing, damaged or does not fit the model."""
    summary = formats.read_json(folder / "summary.json")
    try:
        digests: dict[str, str] = dict(summary["files"])
        data_manifest_sha256 = str(summary["data_manifest_sha256"])
        tokenizer = Tokenizer.from_json(formats.read_json(folder / layout.TOKENIZER, digests[layout.TOKENIZER]))
        table = formats.read_json(folder / "cells.json", digests["cells.json"])
        cells = [dict(zip(table["columns"], row, strict=True)) for row in table["cells"]]
        stores = {
            split: TokenStore(**tensors.load_tensors(folder / name, STORE_SPECS, digests[name]))
            for split, name in ((split, f"{split}.safetensors") for split in SPLITS)
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / 'summary.json'}: {error!r}. Make it again with: dvc repro --force shard-to-batches"
        ) from error
    vocab_size = max(len(tokenizer.tokens), *(int(store.tokens.max(initial=0)) + 1 for store in stores.values()))
    longest = max(int(store.lengths.max(initial=0)) for store in stores.values())
    if vocab_size != config.vocab_size or longest > config.context + 1:
        raise UserError(
            f"{folder}: expected {config.vocab_size} tokens (model.vocab_size) in sequences of at most "
            f"{config.context + 1} (model.context + 1), got {vocab_size} in sequences of up to {longest}. Make it "
            "again with: dvc repro shard-to-batches"
        )
    digests["summary.json"] = files.sha256_file(folder / "summary.json")
    return Dataset(tokenizer, cells, stores, data_manifest_sha256, digests)
