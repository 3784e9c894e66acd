"""From the corpus to ``data/batches/``: tokenised, split, checked stores, as the bytes of their files."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from minitrain.base import UserError, files, formats, layout, tensors
from minitrain.corpus.rows import Row
from minitrain.corpus.shards import Corpus
from minitrain.dataset.split import split_cells
from minitrain.dataset.stores import SPLITS, TokenStore
from minitrain.dataset.tokenizer import Tokenizer, train_tokenizer
from minitrain.params import Params

CELL_COLUMNS = ("cell", "verb", "tense", "person", "english_regularity", "spanish_regularity", "split")


def build_dataset(
    params: Params, corpus: Corpus, data_manifest_sha256: str
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of ``data/batches/`` and of ``plots/shard-to-batches/`` by name, from the correct rows."""
    correct = corpus.correct_rows
    rows, places = list(correct.values()), {row.id: place for place, row in correct.items()}
    split_of = split_cells(rows, params.split)
    rows_of = {split: [row for row in rows if split_of[row.cell] == split] for split in SPLITS}
    check_no_leak(rows_of)
    # Trained on train alone: a merge learned from a held-out form would leak it.
    tokenizer = train_tokenizer(texts(rows_of["train"]), params.model.vocab_size)
    cell_ids = {cell: index for index, cell in enumerate(sorted(split_of))}
    stores, stats = {}, {}
    for split, of_split in rows_of.items():
        stores[split], unknown = make_store(of_split, cell_ids, tokenizer, params.model.context, places)
        stats[split] = {
            "cells": len(of_split),
            "sequences": len(stores[split]),
            "targets": int((stores[split].lengths - 1).sum()),
            "mean_tokens": float(stores[split].lengths.mean()),
            "max_tokens": int(stores[split].lengths.max()),
            "unknown_characters": unknown,
        }
    content = {
        layout.TOKENIZER: formats.json_bytes(tokenizer.to_json()),
        "cells.json": encode_cells(sorted(rows, key=lambda row: row.cell), split_of),
        **{f"{split}.safetensors": tensors.encode_tensors(vars(store)) for split, store in stores.items()},
    }
    summary = {
        "data_manifest_sha256": data_manifest_sha256,
        "files": {name: files.sha256(data) for name, data in content.items()},
        "splits": formats.rounded(stats),
    }
    counts = {"vocab_size": len(tokenizer.tokens), "merges": len(tokenizer.merges), **stats}
    plots = {"lengths.csv": lengths_table(stores), "counts.json": formats.metrics_bytes(counts)}
    return {**content, "summary.json": formats.json_bytes(summary)}, plots


def texts(rows: Sequence[Row]) -> list[str]:
    """Two texts a row, in the order of DIRECTIONS: Spanish first, then English first."""
    return [text for row in rows for text in (f"es:{row.spanish} / en:{row.text}", f"en:{row.text} / es:{row.spanish}")]


def check_no_leak(rows_of: Mapping[str, Sequence[Row]]) -> None:
    """UserError when a text is in two splits: what is held out would have been seen."""
    seen: dict[str, str] = {}
    for split, rows in rows_of.items():
        for text in texts(rows):
            if seen.setdefault(text, split) != split:
                raise UserError(
                    f"the sequence {text!r} is in {seen[text]} and in {split}: two cells have the same "
                    "sentences. Remove one of the rows."
                )


def make_store(
    rows: Sequence[Row], cell_ids: Mapping[str, int], tokenizer: Tokenizer, context: int, places: Mapping[str, str]
) -> tuple[TokenStore, int]:
    """The store of some correct rows, both directions each, and how many characters became ``<unk>``.

    ``places`` says where a row is, by its id. Raises UserError for a sequence of more than ``context`` + 1 tokens.
    """
    tokens, offsets, unknown = tokenizer.encode(texts(rows))
    lengths = np.diff(offsets)
    longest = int(lengths.argmax())
    if lengths[longest] > context + 1:
        row = rows[longest // 2]
        raise UserError(
            f"{places[row.id]}: expected at most {context + 1} tokens (model.context + 1), got {lengths[longest]} for "
            f"{texts([row])[longest % 2]!r}. Shorten the row or raise model.context."
        )
    cell = np.repeat(np.array([cell_ids[row.cell] for row in rows], np.int32), 2)
    return TokenStore(tokens, offsets, cell, np.tile(np.arange(2, dtype=np.uint8), len(rows))), unknown


def encode_cells(rows: Sequence[Row], split_of: Mapping[str, str]) -> bytes:
    """``cells.json``: the cells of some correct rows, whose order gives the ids; JSON, a line each."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    cells = [
        (r.cell, r.verb_lemma, r.tense, r.person, r.english_regularity, r.spanish_regularity, split_of[r.cell])
        for r in rows
    ]
    lines = ",\n".join(map(encode, cells))
    return f'{{"columns": {encode(CELL_COLUMNS)}, "cells": [\n{lines}\n]}}\n'.encode()


def lengths_table(stores: Mapping[str, TokenStore]) -> bytes:
    """How many sequences of each length every split has, as CSV."""
    longest = max(int(store.lengths.max()) for store in stores.values())
    counts = [np.bincount(store.lengths, minlength=longest + 1).tolist() for store in stores.values()]
    rows = [(length, *(of_split[length] for of_split in counts)) for length in range(2, longest + 1)]
    return formats.csv_bytes(["tokens", *stores], rows)
