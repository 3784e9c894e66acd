"""MLflow: a window onto manifests and metrics files, never their source.

A run is filled from files that are safe on disk, and again when the store is lost (``python -m minitrain.tracking``).
In no file are the times of steps, and trainings that failed: they come once. The store is ``mlflow.db`` in the
project's root, where ``mlflow ui`` looks, unless ``MLFLOW_TRACKING_URI`` names another.

This module only observes: it changes no output, so no stage of dvc.yaml depends on it.

The store may be a server, so nothing leaves the project but what the pipeline makes: of a model that loads, its file
and manifest, and the files in plots/ that dvc.yaml names.
"""

import csv
import itertools
import json
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from minitrain.base import UserError, files, formats, layout
from minitrain.base.process import run_command
from minitrain.mlflow_store import FIX, experiment_id, one_clear_error, open_store, shown_uri
from minitrain.params import read_params
from minitrain.training.export import read_manifest, read_model
from minitrain.training.manifest import inputs_digest
from minitrain.training.state import Log

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of mlflow's own dependencies
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
    from mlflow.tracking import MlflowClient

PARAMS = Path("params.yaml")
BATCH = 1000  # metrics in one call: MLflow's limit
DESCRIPTION = (
    "Validation perplexity {val_ppl:.4f}, at the best step, {best_step:.0f}.",
    "Test perplexity {test_ppl:.4f}: {test_ratio:.4f} times that of the best n-gram.",
    "With fp16 weights and activations the logits are off by {drift:.2g} (relative L2).",
)
# When so many steps had been taken, in seconds since the epoch; for the steps of this process.
Times = Mapping[int, float]


def log_run(stages: Sequence[str], times: Times) -> str:
    """Make the run of the one model in ``models`` complete, whatever the store has lost: the training, and the results
    of these stages as they are in ``plots``. Returns a line that says where the run is.
    """
    # The files of an experiment in a temporary folder are brought here by DVC.
    apply = f"dvc exp apply {_experiment_name()}, then " if layout.project().is_absolute() else ""
    with one_clear_error(f"The results are on disk. {FIX}, then log them with: {apply}make log-run"):
        params = read_params()
        exported = read_model(layout.MODELS, params.model)
        if exported.manifest["config"].get("train") != asdict(params.train):
            raise UserError(f"{PARAMS}: not as {exported.path} was trained. Train first: dvc repro train")
        paths = [exported.path, layout.manifest_path(exported.path), *_left_by(stages, "outs", "metrics", "plots")]
        for path in paths:
            _check_in_project(path)
        manifest, found, log = exported.manifest, results(stages), _read_log()
        with open_store() as client:
            run_id = _find_run(client, manifest, "FINISHED")
            run_id = run_id or _new_run(client, exported.path.stem, manifest, log, times, "FINISHED")
            _add_results(client, run_id, found)
            for path in paths:
                client.log_artifact(run_id, str(path), path.parent.as_posix())
    return f"MLflow: runs:/{run_id} in {shown_uri()}"


def try_to(log: Callable[..., str], *arguments: Any) -> None:
    """Log for a stage, whose work is done whatever becomes of this: prints a line either way."""
    try:
        print(log(*arguments))
    except UserError as error:
        print(f"note: {error}")


@contextmanager
def failure_recorded(inputs: Mapping[str, Any], log: Log, times: Times) -> Iterator[None]:
    """Around a training: one that ends with an error has a run too, with its curves so far and the error."""
    try:
        yield
    except UserError as error:
        try_to(_log_failure, {**inputs, "inputs_digest": inputs_digest(inputs)}, log, times, str(error))
        raise


def _log_failure(training: Mapping[str, Any], log: Log, times: Times, reason: str) -> str:
    with one_clear_error(f"{FIX}, then train again to record what failed"), open_store() as client:
        run_id = _find_run(client, training, "FAILED")
        run_id = run_id or _new_run(client, f"failed-{training['inputs_digest']}", training, log, times, "FAILED")
        client.set_tag(run_id, "mlflow.note.content", reason)
    return f"MLflow: runs:/{run_id} in {shown_uri()}"


def recorded_run() -> tuple[Run, list[tuple[int, float]]]:
    """The run of the model in ``models`` as the store has it, and the loss of each step; UserError without one."""
    with one_clear_error(f"{FIX}, then log the run with: make log-run"), open_store() as client:
        run_id = _find_run(client, read_manifest(layout.MODELS), "FINISHED")
        if run_id is None:
            raise UserError(f"{shown_uri()}: expected a run of the model in {layout.MODELS}, found none.")
        losses = sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, "loss"))
        return client.get_run(run_id), losses


# --- what is on disk ---------------------------------------------------------------------------------


def results(stages: Sequence[str]) -> dict[str, float]:
    """The numbers in the metrics of some stages, by name; what could not be measured (null) is left out."""
    found = [item for path in _left_by(stages, "metrics") for item in formats.read_json(path).items()]
    return {name: float(value) for name, value in found if isinstance(value, int | float)}


def _left_by(stages: Sequence[str], *kinds: str) -> list[Path]:
    """The files in ``plots`` that dvc.yaml names as what stages leave; what is missing is for the gate to say."""
    declared = formats.read_yaml(Path("dvc.yaml"))["stages"]
    outs = [out for stage in stages for kind in kinds for out in declared[stage].get(kind, []) if isinstance(out, dict)]
    return [path for path in (Path(*out) for out in outs) if path.is_relative_to(layout.PLOTS) and path.exists()]


def _check_in_project(path: Path) -> None:
    """UserError where there is no file, or a link is on the way: it may lead to what is not the project's."""
    if path.resolve() != path.absolute() or not path.is_file():
        raise UserError(
            f"{path}: expected a file, got a link, folder or pipe ({path.resolve()}). Put the file itself here."
        )


def _read_log() -> Log:
    texts = (files.read_text(layout.PLOTS / "train" / name) for name in ("log.csv", "evaluations.csv"))
    steps, evaluations = (list(csv.DictReader(text.splitlines())) for text in texts)
    return Log(
        [(float(row["loss"]), float(row["lr"]), float(row["grad_norm"])) for row in steps],
        [(int(row["step"]), float(row["val_loss"])) for row in evaluations],
    )


# --- one run -----------------------------------------------------------------------------------------


# ``training``, below, is a manifest, or as much of one as there is when a training failed.


def _identity(training: Mapping[str, Any]) -> dict[str, str]:
    """What tells one run from another: other code may train the same bytes, and other n-grams be their measure."""
    model = {"model_sha256": training["files"][training["model"]]} if "model" in training else {}
    return {
        **model,
        "inputs_digest": training["inputs_digest"],
        "params_digest": files.sha256(formats.json_bytes(formats.read_yaml(PARAMS))),
    }


def _experiment_name() -> str | None:
    """The name of the experiment of DVC's, if this is one."""
    return os.environ.get("DVC_EXP_NAME")


def _find_run(client: MlflowClient, training: Mapping[str, Any], status: str) -> str | None:
    """The run of a training, in an experiment the one of its name. One that was being filled has another status."""
    tags = [f"tags.{key} = '{value}'" for key, value in _identity(training).items()]
    query = " and ".join([f"attributes.status = '{status}'", *tags])
    runs = client.search_runs([experiment_id(client)], query)
    return next((str(run.info.run_id) for run in runs if _experiment_name() in (None, run.info.run_name)), None)


def _new_run(client: MlflowClient, name: str, training: Mapping[str, Any], log: Log, times: Times, status: str) -> str:
    """Log a training: parameters, data, every step and evaluation, and what is volatile and so in no manifest."""
    params, summary = formats.read_yaml(PARAMS), formats.read_json(layout.BATCHES / "summary.json")
    commit = os.environ.get("DVC_EXP_BASELINE_REV", "HEAD")
    first = min(times, default=None)
    tags = {
        **_identity(training),
        "changed": _changed(params, commit),
        "times": {None: "not known: filled from files", 0: "measured"}.get(first, f"measured from step {first} on"),
        "machine": f"{platform.node()}, {platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}",
        "mlflow.source.name": "stages/train.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _git("rev-parse", commit).strip() or "none",
    }
    began, ended = (_ms(limit(times.values(), default=time.time())) for limit in (min, max))
    name = _experiment_name() or name
    run = client.create_run(experiment_id(client), start_time=began, tags=tags, run_name=name)
    run_id = str(run.info.run_id)
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in _leaves(params)])
    shards, splits = params["data"]["shards"], summary["splits"]
    source = json.dumps({"uri": shards})
    data = Dataset(shards, summary["data_manifest_sha256"][:16], "local", source, profile=json.dumps(splits))
    client.log_inputs(run_id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    tokens_per_step = params["train"]["batch_size"] * splits["train"]["targets"] / splits["train"]["sequences"]
    metrics = list(_curves(log, times, tokens_per_step))
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    client.set_terminated(run_id, status, end_time=ended)
    return run_id


def _curves(log: Log, times: Times, tokens_per_step: float) -> Iterator[Metric]:
    """Each number at its step and time; what another process computed, at the beginning of this one."""
    began = min(times.values(), default=time.time())
    for step, row in enumerate(log.steps):
        for name, value in zip(("loss", "lr", "grad_norm"), row, strict=True):
            yield Metric(name, value, _ms(times.get(step + 1, began)), step)
    evaluations = [(int(step), loss) for step, loss in log.evaluations]
    for step, loss in evaluations:
        yield Metric("val_loss", loss, _ms(times.get(step, began)), step)
    # From one evaluation to the next, with all that was done there: one of them, and perhaps a checkpoint.
    for (start, _), (end, _) in itertools.pairwise(evaluations):
        if start in times and end in times:
            speed = (end - start) * tokens_per_step / (times[end] - times[start])
            yield Metric("tokens_per_second", speed, _ms(times[end]), end)


def _add_results(client: MlflowClient, run_id: str, found: Mapping[str, float]) -> None:
    """Log the results that the run does not have yet, and describe it by them."""
    recorded = client.get_run(run_id).data.metrics
    for name, value in found.items():
        if recorded.get(name) != value:
            client.log_metric(run_id, name, value)
    lines = []
    for line in DESCRIPTION:
        with suppress(KeyError):  # a later stage measures it
            lines.append(line.format(**recorded | found))
    client.set_tag(run_id, "mlflow.note.content", "\n\n".join(lines))


def _changed(params: Mapping[str, Any], commit: str) -> str:
    """The parameters that are not as in the commit, as ``dvc exp run -S`` takes them."""
    committed = YAML(typ="safe").load(_git("show", f"{commit}:./{PARAMS}"))
    before = dict(_leaves(committed or {}))
    changes = [f"{key}={value}" for key, value in _leaves(params) if before.get(key) != value]
    return (" ".join(changes) or "nothing") if before else "unknown: no commit"


def _git(*arguments: str) -> str:
    """What git prints; nothing where there is no repository or commit."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings with dotted names."""
    for key, member in value.items():
        if isinstance(member, Mapping):
            yield from _leaves(member, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", member


def _ms(seconds: float) -> int:
    """MLflow's unit of time."""
    return int(seconds * 1000)


if __name__ == "__main__":
    run_command(lambda: print(log_run(layout.STAGES[1:], {})))
