"""Stage shard-to-batches: from the corpus to tokenised, split, checked stores.

Reads ``data/shards/``, ``data/MANIFEST.json``. Leaves ``data/batches/`` and ``plots/shard-to-batches/``.
"""

import json
from pathlib import Path

import numpy as np

from minitrain import corpus, files, sequences, tokenizer
from minitrain.batches import SPLITS
from minitrain.errors import run_command
from minitrain.params import Params, read_params
from minitrain.split import split_cells
from stages.paths import BATCHES, PLOTS


def build(params: Params) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of ``data/batches/`` and of ``plots/shard-to-batches/``, by name."""
    manifest = Path(params.data.manifest)
    rows = [row for row in corpus.read_corpus(Path(params.data.shards), manifest) if row.label == "correct"]
    split_of = split_cells(
        rows, params.split.by, params.split.seed, params.split.val_fraction, params.split.test_fraction
    )
    rows_of = {split: [row for row in rows if split_of[row.cell] == split] for split in SPLITS}
    texts_of = {split: sequences.sequence_texts(rows_of[split]) for split in SPLITS}
    sequences.check_no_leak(texts_of)

    # Trained on train alone: a merge learned from a held-out form would leak it.
    bpe = tokenizer.train(texts_of["train"], params.tokenizer.vocab_size)
    cell_ids = {cell: index for index, cell in enumerate(sorted(split_of))}

    def place(row_id: str) -> str:
        return corpus.place_of(Path(params.data.shards), row_id)

    made = {split: sequences.make_store(rows_of[split], cell_ids, bpe, params.model.context, place) for split in SPLITS}
    cells = [
        {"cell": row.cell, "verb": row.verb_lemma, "tense": row.tense, "person": row.person}
        | {
            "english_regularity": row.english_regularity,
            "spanish_regularity": row.spanish_regularity,
            "split": split_of[row.cell],
        }
        for row in sorted(rows, key=lambda row: row.cell)
    ]
    stats = {
        split: {
            "cells": len(rows_of[split]),
            "sequences": len(store),
            "targets": int((store.lengths - 1).sum()),
            "mean_tokens": float(store.lengths.mean()),
            "max_tokens": int(store.lengths.max()),
            "unknown_characters": unknown,
        }
        for split, (store, unknown) in made.items()
    }
    metrics = {"vocab_size": len(bpe.tokens), "merges": len(bpe.merges), **stats}
    content = {f"{split}.safetensors": files.encode_tensors(store.arrays()) for split, (store, _) in made.items()}
    content["tokenizer.json"] = files.canonical_json(bpe.to_json()).encode()
    content["cells.json"] = files.canonical_json(cells).encode()
    summary = {
        "data_manifest_sha256": files.sha256_file(manifest),
        "files": {name: files.sha256(data) for name, data in content.items()},
        "splits": files.rounded(stats),
    }
    content["summary.json"] = files.canonical_json(summary).encode()

    histogram = {split: np.bincount(store.lengths) for split, (store, _) in made.items()}
    longest = max(len(counts) for counts in histogram.values())
    table = [
        [length, *(int(counts[length]) if length < len(counts) else 0 for counts in histogram.values())]
        for length in range(2, longest)
    ]
    return content, {
        "lengths.csv": files.encode_csv(["tokens", *SPLITS], table),
        "metrics.json": files.encode_metrics(metrics),
    }


def produce() -> None:
    """Write everything that the stage leaves."""
    content, plots = build(read_params())
    files.write_all(BATCHES, content)
    files.write_all(PLOTS / "shard-to-batches", plots)
    stats = json.loads(content["summary.json"])["splits"]
    print(", ".join(f"{split}: {of['sequences']} sequences of {of['targets']} targets" for split, of in stats.items()))


if __name__ == "__main__":
    run_command(produce)
