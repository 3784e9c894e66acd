"""What the tests of the gate share: which checks fail, and how to make the rest of a run fit a change."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minitrain.base import files, formats, layout, tensors
from minitrain.dataset.read import read_dataset
from minitrain.evaluation import baselines
from minitrain.gate import checks
from minitrain.gate.run import Run
from minitrain.params import read_params
from minitrain.training import export
from minitrain.training.checkpoint import load_state, state_tensors
from minitrain.training.manifest import run_inputs
from minitrain.training.state import TrainState

BEATS = {"beats n-grams on val", "beats n-grams on test"}  # 24 steps are too few for that


def failed(project: Path, monkeypatch, *names: str) -> dict[str, str]:
    """Those of these checks, or of all, that fail, with what they got."""
    monkeypatch.chdir(project)
    run = Run(read_params())
    results = [checks.evaluate(name, run) for name in names or checks.CHECKS]
    return {result.name: result.got for result in results if not result.passed}


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_bytes(formats.json_bytes(value))


def manifest(project: Path) -> Path:
    return next((project / "models").glob("*.manifest.json"))


def bless(project: Path) -> None:
    """Make the summary agree with the batches as they are now."""
    folder = project / "data/batches"
    change_json(
        folder / "summary.json",
        lambda summary: summary.update(files={name: files.sha256_file(folder / name) for name in summary["files"]}),
    )


FINAL, KEPT = "minigpt-*.state.safetensors", "evidence/kept.safetensors"


def load(project: Path, name: str) -> tuple[Path, TrainState]:
    """The file of a state, FINAL or KEPT, and the state in it."""
    params, path = read_params(project / "params.yaml"), next((project / "models").glob(name))
    return path, load_state(path, params.model, params.train)


def change_state(project: Path, name: str, change: Callable[[TrainState], object]) -> Path:
    """Change the state in a file of it, digest intact."""
    path, state = load(project, name)
    change(state)
    path.write_bytes(tensors.encode_tensors(state_tensors(state)))
    return path


def export_again() -> None:
    """Leave what the training would have left, had it come to the final state as it is now, under the inputs as they are
    now.
    """
    params, (_, state) = read_params(), load(Path(), FINAL)
    dataset = read_dataset(layout.BATCHES, params.model)
    midrun = (layout.MODELS / layout.MIDRUN_CHECKPOINT).read_bytes()
    inputs = run_inputs(params.model, params.train, dataset)
    probe = export.probe(state, params.model, dataset.stores["val"])
    evidence = {layout.MIDRUN_CHECKPOINT: midrun, layout.PROBE: probe}
    exported = export.model_files(state, params.model, dataset.tokenizer, inputs, evidence)
    for path in layout.MODELS.glob("minigpt-*"):
        path.unlink()
    files.write_all(layout.MODELS, exported)
    tables = export.training_tables(state) | baselines.training_picture(state)
    files.write_all(layout.PLOTS / "train", tables)
    measure_again()


def measure_again() -> None:
    """Leave the metrics of the round trip as they are now, whatever they say."""
    stage = "checkpoint-roundtrip-verify"
    files.write_all(layout.PLOTS / stage, Run(read_params()).expected_plots(stage))


def another_dropout_seed(state: TrainState) -> None:
    state.rng = np.random.Generator(np.random.PCG64([19, 1]))
