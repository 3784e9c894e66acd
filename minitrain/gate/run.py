"""What the stages left, read when a check first asks for it, and what it should have been."""

import csv
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from minitrain.base import files, formats, layout
from minitrain.corpus import shards
from minitrain.dataset import build, read
from minitrain.evaluation import baselines, cells, drift, roundtrip
from minitrain.params import Params
from minitrain.training import checkpoint, export, manifest, state


class Run:
    """One run of the pipeline. Whatever is read is checked on the way: UserError."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.bits_promised = params.model.arithmetic == "exact"
        self.errors: set[str] = set()  # that were met so far: each is said once

    @cached_property
    def corpus(self) -> shards.Corpus:
        return shards.read_corpus(Path(self.params.data.shards), Path(self.params.data.manifest))

    @cached_property
    def built_dataset(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        return build.build_dataset(self.params, self.corpus, files.sha256_file(Path(self.params.data.manifest)))

    @cached_property
    def dataset(self) -> read.Dataset:
        return read.read_dataset(layout.BATCHES, self.params.model)

    @cached_property
    def exported(self) -> export.ExportedModel:
        return export.read_model(layout.MODELS, self.params.model)

    @cached_property
    def state(self) -> state.TrainState:
        return checkpoint.load_state(layout.state_path(self.exported.path), self.params.model, self.params.train)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return manifest.run_inputs(self.params.model, self.params.train, self.dataset)

    @cached_property
    def roundtrip(self) -> dict[str, Any]:
        return roundtrip.measure(self.params.model, self.params.train, self.dataset, self.exported)

    @cached_property
    def baselines(self) -> dict[str, Any]:
        return baselines.measure(self.params.ngram, self.dataset, self.exported)

    @cached_property
    def log_rows(self) -> list[tuple[int, float, float, float]]:
        """Step, loss, learning rate and gradient norm from the training log."""
        rows = csv.DictReader(files.read_text(layout.PLOTS / "train" / "log.csv").splitlines())
        return [(int(row["step"]), float(row["loss"]), float(row["lr"]), float(row["grad_norm"])) for row in rows]

    def expected_plots(self, stage: str) -> dict[str, bytes]:
        """The files of ``plots/<stage>/`` as they should be."""
        make: dict[str, Callable[[], dict[str, bytes]]] = {
            "shard-to-batches": lambda: self.built_dataset[1],
            "train": lambda: export.training_tables(self.state) | baselines.training_picture(self.state),
            "checkpoint-roundtrip-verify": lambda: {"roundtrip.json": formats.metrics_bytes(self.roundtrip)},
            "fp16-drift": lambda: drift.plots(*drift.measure(self.dataset, self.exported)),
            "baseline-compare": lambda: baselines.plots(self.baselines) | cells.tables(self.dataset, self.exported),
        }
        return make[stage]()
