"""Stage shard-to-batches: from the corpus to tokenised, split, checked stores.

Reads ``data/shards/``, ``data/MANIFEST.json``. Leaves ``data/batches/`` and ``plots/shard-to-batches/``.
"""

import json
from pathlib import Path

import numpy as np

from minitrain import corpus, files, sequences, tokenizer
from minitrain.batches import SPLITS
from minitrain.cells import encode_cells
from minitrain.errors import run_command
from minitrain.params import Params, read_params
from minitrain.split import split_cells
from stages.paths import BATCHES, PLOTS


def build(params: Params) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of ``data/batches/`` and of ``plots/shard-to-batches/``, by name."""
    shards, manifest = Path(params.data.shards), Path(params.data.manifest)
    examples = corpus.read_corpus(shards, manifest).examples
    split_of = split_cells(
        examples, params.split.by, params.split.seed, params.split.val_fraction, params.split.test_fraction
    )
    cells = sorted(split_of)
    examples_of = {split: [example for example in examples if split_of[example.cell] == split] for split in SPLITS}
    del examples, split_of  # what is not needed any more makes room: a corpus may have millions of rows
    sequences.check_no_leak(examples_of)

    # Trained on train alone: a merge learned from a held-out form would leak it.
    bpe = tokenizer.train(sequences.SequenceTexts(examples_of["train"]), params.tokenizer.vocab_size)
    made = {
        split: sequences.make_store(
            of_split, cells, bpe, params.model.context, lambda cell: corpus.place_of(shards, cell)
        )
        for split, of_split in examples_of.items()
    }
    content = {
        "tokenizer.json": files.canonical_json(bpe.to_json()).encode(),
        "cells.json": encode_cells(examples_of),
    }
    n_cells = {split: len(of_split) for split, of_split in examples_of.items()}
    del examples_of, cells
    content |= {f"{split}.safetensors": files.encode_tensors(store.arrays()) for split, (store, _) in made.items()}
    stats = {
        split: {
            "cells": n_cells[split],
            "sequences": len(store),
            "targets": int((store.lengths - 1).sum()),
            "mean_tokens": float(store.lengths.mean()),
            "max_tokens": int(store.lengths.max()),
            "unknown_characters": unknown,
        }
        for split, (store, unknown) in made.items()
    }
    metrics = {"vocab_size": len(bpe.tokens), "merges": len(bpe.merges), **stats}
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
