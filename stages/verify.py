"""Stage verify: the gate. Every item of the definition of done, recomputed from the files themselves.

Reads everything that the other stages leave. Leaves ``plots/verify/metrics.json`` and, for people,
``PHASE_18_REPORT.md``. Prints a line an item, with what was expected and what was got; exits non-zero
when one of them fails.
"""

import contextlib
import csv
import json
import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from packaging.markers import Marker

from minitrain import checkpoint, corpus, files, numerics, sources
from minitrain.errors import UserError, run_command
from minitrain.loop import FIRST_GRAD_NORM, FIRST_LOSS_TOLERANCE, TrainState
from minitrain.minitorch.tape import Tape
from minitrain.model import token_nll
from minitrain.params import ModelParams, Params, read_params
from minitrain.report import Item, gate_table, page
from stages import baseline_compare, checkpoint_roundtrip_verify, fp16_drift, shard_to_batches, train
from stages.inputs import Batches, Export, read_batches, read_model
from stages.paths import BATCHES, EVIDENCE, LOCK, MODELS, PLOTS

REPORT = Path("PHASE_18_REPORT.md")
VERBS = Path("data/verbs.yaml")
STAGES = ("shard-to-batches", "train", "checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare")
ROUNDING = 1e-6  # relative; a loss is kept in float32's precision
TOLERANCE = 1e-3  # relative, on numbers computed where equal bits are not promised
LOCKED = (ModelParams(d_model=64, n_heads=4, n_layers=2, d_ff=256, context=32), 64)  # and the vocabulary
LOCKED_PARAMETERS = 103_680

RESULT_ITEMS = {"beats n-grams on val", "beats n-grams on test"}  # all other items are about the files being right

Outcome = tuple[str, str, bool]  # expected, got, passed


class Run:
    """What the stages left, read (and checked) when it is first asked for, and what it should have been."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.bits_promised = numerics.fingerprint() == numerics.PROMISED
        self.mlflow = "none"  # the run and its store, for the report, once the item has found them

    @cached_property
    def batches(self) -> Batches:
        return read_batches(self.params)

    @cached_property
    def export(self) -> Export:
        return read_model(self.params)

    @cached_property
    def state(self) -> TrainState:
        stem = self.export.path.name.removesuffix(".safetensors")
        return checkpoint.load_state(MODELS / f"{stem}.state.safetensors", len(self.export.weights))

    @cached_property
    def roundtrip(self) -> dict[str, Any]:
        return checkpoint_roundtrip_verify.measure(self.params, self.batches, self.export)

    @cached_property
    def baseline(self) -> dict[str, Any]:
        return baseline_compare.measure(self.params, self.batches, self.export)

    def plots(self, stage: str) -> dict[str, bytes]:
        """The files of ``plots/<stage>/`` as they should be."""
        match stage:
            case "shard-to-batches":
                return shard_to_batches.build(self.params)[1]
            case "train":
                return train.plots(self.state)
            case "checkpoint-roundtrip-verify":
                return {"metrics.json": files.encode_metrics(self.roundtrip)}
            case "fp16-drift":
                return fp16_drift.plots(*fp16_drift.measure(self.params, self.batches, self.export))
            case _:
                return baseline_compare.plots(self.baseline)


# --- the items ---------------------------------------------------------------------------------------


def corpus_item(run: Run) -> Outcome:
    folder, manifest = Path(run.params.data.shards), Path(run.params.data.manifest)
    labels = corpus.read_corpus(folder, manifest).labels  # raises when the shards are not as the manifest pins them
    if folder != Path("data/shards"):
        return "shards as pinned", f"{labels.total()} rows as pinned", True
    made = corpus.shard_texts(corpus.make_rows(corpus.read_verbs(VERBS)))
    different = [name for name, text in made.items() if files.read_text(folder / name) != text]
    return (
        "shards == made from verbs.yaml",
        f"{labels['correct']} correct of {labels.total()} rows, {len(different)} shards differ",
        not different,
    )


def batches_item(run: Run) -> Outcome:
    return _compare("data/batches == made from the shards", BATCHES, shard_to_batches.build(run.params)[0])


def leak_item(run: Run) -> Outcome:
    cells_of = {split: set(store.cell.tolist()) for split, store in run.batches.stores.items()}
    decode, stores = run.batches.tokenizer.decode, run.batches.stores
    texts_of = {
        split: {decode(store.tokens[a:b]) for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)}
        for split, store in stores.items()
    }
    shared = sum(
        len(of[a] & of[b])
        for of in (cells_of, texts_of)
        for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
    )
    return "no cell, no sequence in two splits", f"{shared} shared", shared == 0


def model_item(run: Run) -> Outcome:
    model = run.export.model()
    expected = LOCKED_PARAMETERS if (run.params.model, run.params.tokenizer.vocab_size) == LOCKED else model.size
    return f"{expected:,} parameters", f"{len(run.export.weights):,}", len(run.export.weights) == model.size == expected


def files_item(run: Run) -> Outcome:
    """Export again from the state, the batches and the plan, and compare: weights, manifest, probe, names. Then score
    the weights again: they must be those whose loss the state, and so the manifest, names as the best.
    """
    # The plan as the manifest has it; whether it is the right one is the next item's question.
    planned = {key: run.export.manifest.get(key) for key in train.plan(run.params, run.batches)}
    kept = files.read_bytes(EVIDENCE / "kept.safetensors")
    exported = train.export(run.state, run.params, planned, kept, run.batches.stores["val"])
    if not run.bits_promised:  # the probe is computed, in float64, and may differ here; so may its digest
        name, content = "evidence/probe.safetensors", files.read_bytes(EVIDENCE / "probe.safetensors")
        for path, data in exported.items():
            exported[path] = data.replace(files.sha256(exported[name]).encode(), files.sha256(content).encode())
        exported[name] = content
    promise, got, passed = _compare("models == exported again from the state", MODELS, exported)

    claimed = math.exp(run.state.best_loss)
    nll = token_nll(run.export.model(), run.batches.stores["val"], Tape(recording=False))
    scored = math.exp(float(nll.mean()))
    if not math.isclose(scored, claimed, rel_tol=ROUNDING if run.bits_promised else TOLERANCE):
        got, passed = f"{got}; val perplexity {scored:.6g} instead of {claimed:.6g}", False
    return f"{promise}, and as good as it says", got, passed


def manifest_item(run: Run) -> Outcome:
    planned = train.plan(run.params, run.batches)
    if not run.bits_promised:
        planned["numerics"] = run.export.manifest["numerics"]
    wrong = [key for key, value in planned.items() if run.export.manifest.get(key) != value]
    got = "equal" if not wrong else f"different: {', '.join(wrong)}"
    return "config, data, code, packages as here", got, not wrong


def roundtrip_item(run: Run) -> Outcome:
    names = [
        name
        for name in checkpoint_roundtrip_verify.failures(run.roundtrip)
        if name != "resumed_run_ends_in_same_state" and not name.startswith("fp64")
    ]
    return (
        "reloaded == saved, each state machine",
        "equal bytes" if not names else f"different: {', '.join(names)}",
        not names,
    )


def fp64_item(run: Run) -> Outcome:
    n, same = run.roundtrip["fp64_logits_compared"], run.roundtrip["fp64_logits_same"]
    if not run.bits_promised:
        return "not promised on this machine", "equal" if same else "different", True
    return "fp64 logits == those before saving", f"{n} {'equal' if same else 'compared, different'}", same


def resume_item(run: Run) -> Outcome:
    same, step = run.roundtrip["resumed_run_ends_in_same_state"], run.roundtrip["kept_step"]
    if not run.bits_promised:
        return "not promised on this machine", "equal" if same else "different", True
    return f"resumed from step {step} == uninterrupted", "equal bytes" if same else "different bytes", same


def baseline_item(run: Run, split: str) -> Outcome:
    m = run.baseline[split]
    return (
        f"perplexity below {m['best_baseline_ppl']:.4f}",
        f"{m['model_ppl']:.4f} (ratio {m['ratio_to_best_baseline']:.4f})",
        m["model_ppl"] < m["best_baseline_ppl"],
    )


def plots_item(run: Run) -> Outcome:
    wrong, count = [], 0
    for stage in STAGES:
        expected = run.plots(stage)
        exact = run.bits_promised or stage == "shard-to-batches"  # which counts, and divides once
        wrong += [
            f"{stage}/{name}"
            for name, data in expected.items()
            if not (files.read_bytes(PLOTS / stage / name) == data if exact else _agrees(PLOTS / stage / name, data))
        ]
        count += len(expected)
    return (
        f"{count} files in plots == recomputed",
        "equal" if not wrong else f"different: {', '.join(wrong)}",
        not wrong,
    )


def log_item(run: Run) -> Outcome:
    steps = [step for step, _, _ in _log_rows()]
    whole = steps == list(range(run.params.train.steps)) and len(run.state.log) == len(steps)
    return f"{run.params.train.steps} steps, each once", f"{len(steps)}{'' if whole else ', not each once'}", whole


def start_item(run: Run) -> Outcome:
    expected, (low, high) = math.log(run.params.tokenizer.vocab_size), FIRST_GRAD_NORM
    _, loss, norm = next(iter(_log_rows()), (0, math.nan, math.nan))
    passed = abs(loss - expected) <= FIRST_LOSS_TOLERANCE and low <= norm <= high
    wanted = f"first loss {expected:.2f} +- {FIRST_LOSS_TOLERANCE}, gradient norm in [{low}, {high}]"
    return wanted, f"{loss:.3f}, {norm:.3f}", passed


def picture_item(run: Run) -> Outcome:
    from matplotlib import image

    path = PLOTS / "fp16-drift" / "drift_per_layer.png"
    files.read_bytes(path)  # a clear error when it is missing
    height, width = image.imread(path).shape[:2]
    return f"a picture {path.name}", f"{width} x {height}", min(height, width) > 100


def pickle_item(run: Run) -> Outcome:
    paths = [
        path
        for folder in ("minitrain", "stages", "tests", "benchmarks", "proofs")
        for path in sorted(Path(folder).rglob("*.py"))
    ]
    uses = [f"{path}:{use}" for path in paths for use in sources.pickle_uses(path)]
    return (
        "no pickle in the syntax tree of any file",
        f"{len(paths)} files, {'none' if not uses else '; '.join(uses)}",
        not uses,
    )


def packages_item(run: Run) -> Outcome:
    # name==version ; for which Python and system
    lines = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; ([^\\\n]+))?", files.read_text(LOCK), flags=re.MULTILINE)
    locked = [(name, wanted) for name, wanted, where in lines if not where or Marker(where).evaluate()]
    wrong = []
    for name, wanted in locked:
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "nothing"
        if installed != wanted:
            wrong.append(f"{name} {installed} instead of {wanted}")
    got = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return f"{len(locked)} packages as locked", got or "equal", not wrong


def numerics_item(run: Run) -> Outcome:
    got = numerics.fingerprint()
    if not numerics.machine_is_supported():
        return "nothing: bits are not promised on this machine", f"{got['machine']}, {got['openblas_core']}", True
    wrong = {key: value for key, value in got.items() if value != numerics.PROMISED[key]}
    return (
        "pinned kernels",
        f"{got['openblas_core']}, {'+'.join(got['numpy_simd'])}" if not wrong else f"different: {wrong}",
        not wrong,
    )


def tracking_item(run: Run) -> Outcome:
    from minitrain import tracking

    tracking.ensure_run(MODELS, PLOTS, STAGES[1:])
    recorded = tracking.recorded_run(MODELS)
    run.mlflow = f"runs:/{recorded['id']} in {tracking.shown_uri()}"
    log = [(step, loss) for step, loss, _ in _log_rows()]
    name = run.export.path.name.removesuffix(".safetensors")
    same = recorded["name"] == name and recorded["tags"].get(tracking.HASH_TAG) == run.export.sha256
    same = same and recorded["loss"] == log
    results = {name: value for stage in STAGES[1:] for name, value in tracking.results(PLOTS, stage).items()}
    wrong = [name for name, value in results.items() if recorded["metrics"].get(name) != value]
    got = f"{recorded['name']} with {len(recorded['loss'])}{'' if same else ', different'}"
    got += f", {len(results) - len(wrong)} results"
    got += f", different: {', '.join(wrong[:5])}" if wrong else ""
    return f"one run {name} with {len(log)} losses, {len(results)} results", got, same and not wrong


def _compare(promise: str, folder: Path, expected: Mapping[str, bytes]) -> Outcome:
    """Compare the files in a folder with what they should be; a file too many counts as well."""
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    wrong = sorted(left ^ expected.keys())
    wrong += [name for name in expected if name in left and files.read_bytes(folder / name) != expected[name]]
    return promise, f"{len(expected)} files equal" if not wrong else f"different: {', '.join(wrong)}", not wrong


def _log_rows() -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm from the training log."""
    rows = csv.DictReader(files.read_text(PLOTS / "train" / "log.csv").splitlines())
    return [(int(row["step"]), float(row["loss"]), float(row["grad_norm"])) for row in rows]


ITEMS: tuple[tuple[str, Callable[[Run], Outcome]], ...] = (
    ("corpus", corpus_item),
    ("batches", batches_item),
    ("no leak", leak_item),
    ("model", model_item),
    ("model files", files_item),
    ("manifest", manifest_item),
    ("round trip", roundtrip_item),
    ("round trip in fp64", fp64_item),
    ("resumed run", resume_item),
    ("beats n-grams on val", lambda run: baseline_item(run, "val")),
    ("beats n-grams on test", lambda run: baseline_item(run, "test")),
    ("plots", plots_item),
    ("training log", log_item),
    ("first step", start_item),
    ("fp16 drift plot", picture_item),
    ("no pickle", pickle_item),
    ("packages", packages_item),
    ("numerics", numerics_item),
    ("MLflow run", tracking_item),
)


def check(name: str, item: Callable[[Run], Outcome], run: Run) -> Item:
    """Evaluate one item. Whatever goes wrong on the way fails it, with the reason: the other items still count."""
    try:
        return Item(name, *item(run))
    except UserError as error:
        return Item(name, "to be readable", str(error), passed=False)
    except Exception as error:
        return Item(name, "to be readable", repr(error), passed=False)


def _close(left: Any, right: Any) -> bool:
    """Equal, but for floats, which may differ by TOLERANCE."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_close(left[key], right[key]) for key in left)
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-9)
    return bool(left == right)


def _agrees(path: Path, expected: bytes) -> bool:
    """Whether a file of plots is as expected where equal bits are not promised."""
    match path.suffix:
        case ".json":
            return _close(files.read_json(path), json.loads(expected))
        case ".csv":
            left, right = (
                [line.split(",") for line in text.split("\n")] for text in (files.read_text(path), expected.decode())
            )
            same_shape = [len(row) for row in left] == [len(row) for row in right]
            return same_shape and all(map(_close_cells, chain(*left), chain(*right)))
        case _:  # pictures, and the list of flips between nearly equal tokens: the last bits show in them
            return bool(files.read_bytes(path))


def _close_cells(left: str, right: str) -> bool:
    """Cells of a table: equal, but for numbers that are not both whole (a step is), which may differ by TOLERANCE."""
    if left == right or (left.isdigit() and right.isdigit()):
        return left == right
    try:
        return _close(float(left), float(right))
    except ValueError:
        return False


def write_report(items: list[Item], run: Run) -> None:
    """The report for people, with as much in it as can be read."""
    metrics: dict[str, Any] = {}
    for stage in STAGES:
        with contextlib.suppress(UserError):
            metrics[stage] = files.read_json(PLOTS / stage / "metrics.json")
    manifest: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        manifest = run.export.manifest
    machine = {"CPU": platform.machine(), "system": platform.system(), "Python": platform.python_version()}
    try:
        text = page(items, manifest, metrics, run.mlflow, machine)
    except (KeyError, TypeError, AttributeError, ValueError):  # files that parse, but are no manifest or no metrics
        text = page(items, {}, {}, run.mlflow, machine)
    files.write_text(REPORT, text)


def main() -> None:
    run = Run(read_params())
    items = [check(name, item, run) for name, item in ITEMS]
    print(gate_table(items))
    write_report(items, run)
    red = [item.name for item in items if not item.passed]
    # `dvc exp run` records nothing when a stage fails. There, a model that does not beat the n-grams is a result.
    tolerated = RESULT_ITEMS if "DVC_EXP_BASELINE_REV" in os.environ else set()
    if set(red) - tolerated:
        raise UserError(f"the gate is red: {', '.join(red)}. {REPORT} has the details.")
    if red:
        print(f"an experiment: recorded although red: {', '.join(red)}")
    metrics = {"items": len(items), "passed": len(items) - len(red)}
    files.write_bytes(PLOTS / "verify" / "metrics.json", files.encode_metrics(metrics))


if __name__ == "__main__":
    run_command(main)
