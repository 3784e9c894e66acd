"""Stage verify: the gate. Every item of the definition of done, recomputed from the files themselves.

Reads everything that the other stages leave. Leaves ``plots/verify/metrics.json`` and, for people,
``PHASE_18_REPORT.md``. Prints a line an item, with what was expected and what was got; exits non-zero
when one of them fails.
"""

import csv
import math
import os
import platform
import re
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from minitrain import checkpoint, corpus, files, numerics, sources
from minitrain.errors import UserError, run_command
from minitrain.loop import FIRST_GRAD_NORM, FIRST_LOSS_TOLERANCE
from minitrain.params import Params, read_params
from minitrain.report import Item, gate_table, page
from stages import baseline_compare, checkpoint_roundtrip_verify, fp16_drift, shard_to_batches, train
from stages.inputs import Batches, Export, read_batches, read_model
from stages.paths import BATCHES, LOCK, MODELS, PLOTS

REPORT = Path("PHASE_18_REPORT.md")
VERBS = Path("data/verbs.yaml")
STAGES = ("shard-to-batches", "train", "checkpoint-roundtrip-verify", "fp16-drift", "baseline-compare")
LOCKED_PACKAGES = ("numpy", "safetensors", "mlflow", "dvc", "pyyaml", "matplotlib")
TOLERANCE = 1e-3  # relative, on numbers computed where equal bits are not promised

RESULT_ITEMS = {"beats n-grams on val", "beats n-grams on test"}  # all other items are about the files being right

Outcome = tuple[str, str, bool]  # expected, got, passed


class Run:
    """What the stages left, read (and checked) when it is first asked for."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.bits_promised = numerics.fingerprint() == numerics.PROMISED

    @cached_property
    def batches(self) -> Batches:
        return read_batches(self.params)

    @cached_property
    def export(self) -> Export:
        return read_model(self.params)

    @cached_property
    def roundtrip(self) -> dict[str, Any]:
        return checkpoint_roundtrip_verify.measure(self.params, self.batches, self.export)

    @cached_property
    def baseline(self) -> dict[str, Any]:
        return baseline_compare.measure(self.params, self.batches, self.export)

    def left_metrics(self, stage: str) -> Any:
        """The metrics file that a stage left."""
        return files.read_json(PLOTS / stage / "metrics.json")

    def same(self, left: Any, recomputed: Any) -> bool:
        """Whether a stage's numbers are those recomputed here: exactly, or within TOLERANCE where bits are not
        promised.
        """
        return left == recomputed if self.bits_promised else _close(left, recomputed)


# --- the items ---------------------------------------------------------------------------------------


def corpus_item(run: Run) -> Outcome:
    folder, manifest = Path(run.params.data.shards), Path(run.params.data.manifest)
    rows = corpus.read_corpus(folder, manifest)  # raises when the shards are not as the manifest pins them
    correct = sum(row.label == "correct" for row in rows)
    if folder != Path("data/shards"):
        return "shards as pinned", f"{len(rows)} rows as pinned", True
    made = corpus.shard_texts(corpus.make_rows(corpus.read_verbs(VERBS)))
    different = [name for name, text in made.items() if files.read_text(folder / name) != text]
    return (
        "shards == made from verbs.yaml",
        f"{correct} correct of {len(rows)} rows, {len(different)} shards differ",
        not different,
    )


def batches_item(run: Run) -> Outcome:
    content, _, _ = shard_to_batches.build(run.params)
    left = {path.name for path in BATCHES.iterdir()}
    different = sorted(
        name
        for name in left | set(content)
        if name not in left or files.read_bytes(BATCHES / name) != content.get(name)
    )
    return (
        "data/batches == made from the shards",
        "equal bytes" if not different else f"different: {', '.join(different)}",
        not different,
    )


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
    config = run.params.model
    V, C, F, L = run.params.tokenizer.vocab_size, config.d_model, config.d_ff, config.n_layers
    expected = V * C + L * (4 * C**2 + 2 * C * F + F + C + 4 * C) + 2 * C
    return (
        f"{expected:,} parameters",
        f"{len(run.export.weights):,} in {run.export.path.name}",
        len(run.export.weights) == expected,
    )


def files_item(run: Run) -> Outcome:
    expected: dict[str, str] = run.export.manifest["files"]
    got = {path.relative_to(MODELS).as_posix() for path in MODELS.rglob("*") if path.is_file()}
    manifest = run.export.path.name.replace(".safetensors", ".manifest.json")
    wrong = sorted(set(expected) ^ (got - {manifest}))
    wrong += [name for name in expected if name in got and files.sha256_file(MODELS / name) != expected[name]]
    return (
        f"{len(expected)} files with the manifest's digests",
        f"{len(expected) - len(wrong)}{' wrong: ' + ', '.join(wrong) if wrong else ''}",
        not wrong,
    )


def manifest_item(run: Run) -> Outcome:
    planned = train.plan(run.params, run.batches)
    if not run.bits_promised:
        planned["numerics"] = run.export.manifest["numerics"]
    wrong = [key for key, value in planned.items() if run.export.manifest.get(key) != value]
    return "config, data, code, packages as here", "equal" if not wrong else f"different: {', '.join(wrong)}", not wrong


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


def metrics_item(run: Run) -> Outcome:
    recomputed: dict[str, Any] = {
        "shard-to-batches": shard_to_batches.build(run.params)[1],
        "checkpoint-roundtrip-verify": run.roundtrip,
        "fp16-drift": fp16_drift.measure(run.params, run.batches, run.export)[0],
        "baseline-compare": run.baseline,
    }
    wrong = [
        stage for stage, metrics in recomputed.items() if not run.same(run.left_metrics(stage), files.rounded(metrics))
    ]
    return (
        f"{len(recomputed)} metrics files == recomputed",
        "equal" if not wrong else f"different: {', '.join(wrong)}",
        not wrong,
    )


def log_item(run: Run) -> Outcome:
    stem = run.export.path.name.removesuffix(".safetensors")
    state = checkpoint.load_state(MODELS / f"{stem}.state.safetensors", len(run.export.weights))
    rows = list(csv.DictReader(files.read_text(PLOTS / "train" / "log.csv").splitlines()))
    written = [tuple(row.values()) for row in rows]
    expected = [tuple(format(x, ".9g") for x in (float(step), *log)) for step, log in enumerate(state.log)]
    whole = written == expected and len(rows) == run.params.train.steps
    return (
        f"{run.params.train.steps} steps, each once, as in the state",
        f"{len(rows)} rows, {'equal' if whole else 'different'}",
        whole,
    )


def start_item(run: Run) -> Outcome:
    first = next(
        csv.DictReader(files.read_text(PLOTS / "train" / "log.csv").splitlines()), {"loss": "nan", "grad_norm": "nan"}
    )
    loss, norm, expected = float(first["loss"]), float(first["grad_norm"]), math.log(run.params.tokenizer.vocab_size)
    low, high = FIRST_GRAD_NORM
    passed = abs(loss - expected) <= FIRST_LOSS_TOLERANCE and low <= norm <= high
    return (
        f"first loss {expected:.2f} +- {FIRST_LOSS_TOLERANCE}, gradient norm in [{low}, {high}]",
        f"{loss:.3f}, {norm:.3f}",
        passed,
    )


def picture_item(run: Run) -> Outcome:
    from matplotlib import image

    path = PLOTS / "fp16-drift" / "drift_per_layer.png"
    files.read_bytes(path)  # a clear error when it is missing
    try:
        height, width = image.imread(path).shape[:2]
    except (OSError, SyntaxError, ValueError) as error:
        return "a picture", f"no PNG: {error}", False
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
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", files.read_text(LOCK), flags=re.MULTILINE))
    wrong = []
    for name in LOCKED_PACKAGES:
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "nothing"
        if installed != locked.get(name):
            wrong.append(f"{name} {installed} instead of {locked.get(name)}")
    return f"{len(LOCKED_PACKAGES)} packages as locked", "equal" if not wrong else ", ".join(wrong), not wrong


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

    tracking.training_run(MODELS, PLOTS / "train")
    recorded = tracking.recorded_run(MODELS)
    rows = csv.DictReader(files.read_text(PLOTS / "train" / "log.csv").splitlines())
    log = [(int(row["step"]), float(row["loss"])) for row in rows]
    name = run.export.path.name.removesuffix(".safetensors")
    passed = (
        recorded["name"] == name
        and recorded["loss"] == log
        and recorded["tags"].get(tracking.HASH_TAG) == run.export.sha256
    )
    return (
        f"one run {name} with {len(log)} losses",
        f"{recorded['name']} with {len(recorded['loss'])}{'' if passed else ', different'}",
        passed,
    )


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
    ("metrics", metrics_item),
    ("training log", log_item),
    ("first step", start_item),
    ("fp16 drift plot", picture_item),
    ("no pickle", pickle_item),
    ("packages", packages_item),
    ("numerics", numerics_item),
    ("MLflow run", tracking_item),
)


def check(name: str, item: Callable[[Run], Outcome], run: Run) -> Item:
    """Evaluate one item; what cannot be read fails it, with the reason."""
    try:
        return Item(name, *item(run))
    except UserError as error:
        return Item(name, "to be readable", str(error), passed=False)


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_close(left[key], right[key]) for key in left)
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-9)
    return type(left) is type(right) and (isinstance(left, int) or left == right)


def write_report(items: list[Item]) -> None:
    """The report for people, with as much in it as could be read."""
    metrics, manifest, run_uri = {}, {}, "none"
    for stage in STAGES:
        path = PLOTS / stage / "metrics.json"
        if path.is_file() and all(item.passed for item in items):
            metrics[stage] = files.read_json(path)
    if all(item.passed for item in items):
        from minitrain import tracking

        manifest = files.read_json(next(MODELS.glob("*.manifest.json")))
        run_uri = f"{tracking.training_run(MODELS, PLOTS / 'train')} in {tracking.tracking_uri()}"
    machine = {"CPU": platform.machine(), "system": platform.system(), "Python": platform.python_version()}
    files.write_text(REPORT, page(items, manifest, metrics, run_uri, machine))


def main() -> None:
    run = Run(read_params())
    items = [check(name, item, run) for name, item in ITEMS]
    print(gate_table(items))
    write_report(items)
    red = [item.name for item in items if not item.passed]
    # `dvc exp run` records nothing when a stage fails. There, a model that does not beat the n-grams is a result.
    tolerated = RESULT_ITEMS if "DVC_EXP_BASELINE_REV" in os.environ else set()
    if set(red) - tolerated:
        raise UserError(f"the gate is red: {', '.join(red)}. {REPORT} has the details.")
    if red:
        print(f"an experiment: recorded although red: {', '.join(red)}")
    files.write_metrics(PLOTS / "verify" / "metrics.json", {"items": len(items), "passed": len(items) - len(red)})


if __name__ == "__main__":
    run_command(main)
