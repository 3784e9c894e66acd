"""The checks of the gate: what is promised, recomputed from the files themselves.

Each check is a function of a ``Run`` that returns what was expected, what was got, and whether that is right.
``CHECKS`` lists them; a new one is a function and a line there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from minitrain import tracking
from minitrain.base import UserError, files, layout
from minitrain.corpus import generate
from minitrain.evaluation import roundtrip
from minitrain.gate import compare, unpickling
from minitrain.gate.run import Run
from minitrain.minitorch import arithmetic, schedule
from minitrain.params import ModelConfig
from minitrain.scoring import perplexity, token_nll
from minitrain.training import checks, export, state

ROUNDING = 1e-6  # relative; a loss is kept in float32's precision
LOCKED = ModelConfig(vocab_size=64, d_model=64, n_heads=4, n_layers=2, d_ff=256, context=32)
LOCKED_PARAMETERS = 103_680
CODE_FOLDERS = ("minitrain", "stages", "course", "tests", "benchmarks", "proofs", "examples", "page")

Outcome = tuple[str, str, bool]  # expected, got, passed


@dataclass(frozen=True)
class CheckResult:
    """One line of the gate: what is promised, what was expected, what was got."""

    name: str
    expected: str
    got: str
    passed: bool


def check_corpus(run: Run) -> Outcome:
    folder, rows = Path(run.params.data.shards), run.corpus.rows  # raises when the shards are not as pinned
    if folder != Path("data/shards"):
        return "shards as pinned", f"{len(rows)} rows as pinned", True
    made = generate.shard_files(generate.make_rows(generate.read_verbs(layout.VERBS)))
    different = compare.different_files(folder, made)
    correct = len(run.corpus.correct_rows)
    promise = f"{correct} rows, and {len(rows) - correct} wrong on purpose == made from verbs.yaml"
    return promise, _different(different, "equal"), not different


def check_dataset(run: Run) -> Outcome:
    return _same_files("data/batches == made from the shards", layout.BATCHES, run.built_dataset[0])


def check_no_leak(run: Run) -> Outcome:
    decode, stores = run.dataset.tokenizer.decode, run.dataset.stores
    cells = {split: set(store.cell.tolist()) for split, store in stores.items()}
    texts = {
        split: {decode(store.tokens[a:b]) for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)}
        for split, store in stores.items()
    }
    pairs = (("train", "val"), ("train", "test"), ("val", "test"))
    shared = sum(len(of[a] & of[b]) for of in (cells, texts) for a, b in pairs)
    return "no cell, no sequence in two splits", f"{shared} shared", shared == 0


def check_model(run: Run) -> Outcome:
    size, got = run.exported.model().size, len(run.exported.weights)
    expected = LOCKED_PARAMETERS if run.params.model == LOCKED else size
    return f"{expected:,} parameters", f"{got:,}", got == size == expected


def check_model_files(run: Run) -> Outcome:
    """Export again from the state, the dataset and the inputs that the manifest names, and compare. Then score the
    weights again: they must be those whose loss the state, and so the manifest, names as the best.
    """
    inputs = {key: run.exported.manifest.get(key) for key in run.inputs}  # whether they are right: check_manifest
    midrun, val_set = files.read_bytes(layout.MODELS / layout.MIDRUN_CHECKPOINT), run.dataset.stores["val"]
    if run.bits_promised:
        probe = export.probe(run.state, run.params.model, val_set)
    else:  # it is computed, in float64, and may differ here
        probe = files.read_bytes(layout.MODELS / layout.PROBE)
    evidence = {layout.MIDRUN_CHECKPOINT: midrun, layout.PROBE: probe}
    expected = export.model_files(run.state, run.params.model, run.dataset.tokenizer, inputs, evidence)
    promise, got, passed = _same_files("models == exported again from the state", layout.MODELS, expected)
    claimed, scored = perplexity(run.state.best.loss), perplexity(token_nll(run.exported.model(), val_set))
    if not math.isclose(scored, claimed, rel_tol=ROUNDING if run.bits_promised else compare.TOLERANCE):
        got, passed = f"{got}; val perplexity {scored:.6g} instead of {claimed:.6g}", False
    return f"{promise}, as good as they say", got, passed


def check_manifest(run: Run) -> Outcome:
    manifest = run.exported.manifest
    wrong = [key for key, value in run.inputs.items() if manifest.get(key) != value]
    return "config, data, code as here", _different(wrong, "equal"), not wrong


def check_roundtrip(run: Run) -> Outcome:
    others = ("resumed_run_ends_in_same_state", "fp64_logits_same")  # have checks of their own
    wrong = [name for name in roundtrip.failures(run.roundtrip) if name not in others]
    return "reloaded == saved, each state machine", _different(wrong, "equal bytes"), not wrong


def check_fp64(run: Run) -> Outcome:
    return _same_bits("fp64 logits == those before saving", run.roundtrip["fp64_logits_same"])


def check_resumed_run(run: Run) -> Outcome:
    promise = f"resumed at step {run.roundtrip['kept_step']} == uninterrupted"
    return _same_bits(promise, run.roundtrip["resumed_run_ends_in_same_state"])


def check_beats_baselines(run: Run, split: str) -> Outcome:
    scores = run.baselines[split]
    model, baseline, ratio = scores["model_ppl"], scores["best_baseline_ppl"], scores["ratio_to_best_baseline"]
    return f"perplexity below {baseline:.4f}", f"{model:.4f} (ratio {ratio:.4f})", model < baseline


def check_plots(run: Run) -> Outcome:
    wrong, count = [], 0
    for stage in layout.STAGES:
        exact = run.bits_promised or stage == "shard-to-batches"  # which counts, and divides once
        for name, data in run.expected_plots(stage).items():
            path, count = layout.PLOTS / stage / name, count + 1
            if files.read_bytes(path) != data if exact else not compare.agrees(path, data):
                wrong.append(f"{stage}/{name}")
    return f"{count} files in plots == recomputed", _different(wrong, "equal"), not wrong


def check_log(run: Run) -> Outcome:
    """Each step once; the learning rates, the schedule and the seeds of the run are those of the parameters."""
    n_steps, start = run.params.train.steps, state.initial_state(run.params.model, run.params.train)
    steps, rates = ([row[column] for row in run.log_rows] for column in (0, 2))
    expected = [schedule.Scheduler(step, start.scheduler.shape).lr() for step in range(n_steps)]
    increment, expected_increment = (of.rng.bit_generator.state["state"]["inc"] for of in (run.state, start))
    same = {
        "steps": steps == list(range(n_steps)) and len(run.state.log.steps) == n_steps,
        "learning rates": all(math.isclose(a, b, rel_tol=ROUNDING) for a, b in zip(rates, expected, strict=False)),
        "schedule": run.state.scheduler.shape == start.scheduler.shape,
        "data seed": run.state.data.seed == start.data.seed,
        "dropout seed": increment == expected_increment,  # of a PCG64: the seed sets it, and no draw changes it
    }
    wrong = [name for name, is_same in same.items() if not is_same]
    return f"{n_steps} steps, as in params.yaml", f"{len(steps)}, {_different(wrong, 'equal')}", not wrong


def check_first_step(run: Run) -> Outcome:
    expected, (low, high) = math.log(run.params.model.vocab_size), checks.FIRST_GRAD_NORM
    _, loss, _, norm = next(iter(run.log_rows), (0, math.nan, math.nan, math.nan))
    passed = abs(loss - expected) <= checks.FIRST_LOSS_TOLERANCE and low <= norm <= high
    wanted = f"loss {expected:.2f} +- {checks.FIRST_LOSS_TOLERANCE}, gradient norm in [{low}, {high}]"
    return wanted, f"{loss:.3f}, {norm:.3f}", passed


def check_drift_picture(run: Run) -> Outcome:
    data = files.read_bytes(layout.PLOTS / "fp16-drift" / "drift_per_layer.png")
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))  # of PNG's first chunk
    is_picture = data.startswith(b"\x89PNG\r\n\x1a\n") and min(width, height) > 100
    return "a picture drift_per_layer.png", f"{width} x {height}", is_picture


def check_no_pickle(run: Run) -> Outcome:
    paths = [path for folder in CODE_FOLDERS for path in sorted(Path(folder).rglob("[!.]*.py"))]
    uses = [use for path in paths for use in unpickling.unpickling(path)]
    return "no pickle in the syntax tree of any file", "; ".join(uses) or "none", not uses


def check_arithmetic(run: Run) -> Outcome:
    if not run.bits_promised:
        return "native: equal bits are not promised", f"NumPy {version('numpy')}", True
    same = (got := arithmetic.known_answer()) == arithmetic.KNOWN_ANSWER
    return f"exact: known answer {arithmetic.KNOWN_ANSWER}", "equal" if same else got, same


def check_tracking(run: Run) -> Outcome:
    recorded, losses = tracking.recorded_run()
    results = tracking.results(layout.STAGES[1:])
    logged = [(step, loss) for step, loss, *_ in run.log_rows]
    expected, got = {"losses": logged, **results}, {"losses": losses, **recorded.data.metrics}
    wrong = [key for key, value in expected.items() if got.get(key) != value]
    promise = f"a run of this model with {len(logged)} losses, {len(results)} results"
    return promise, _different(wrong, "equal"), not wrong


def _same_files(promise: str, folder: Path, expected: dict[str, bytes]) -> Outcome:
    wrong = compare.different_files(folder, expected)
    return promise, _different(wrong, f"{len(expected)} files equal"), not wrong


def _same_bits(promise: str, same: bool | None) -> Outcome:
    if same is None:
        return "native: not promised", "not compared", True
    return promise, "equal bytes" if same else "different bytes", same


def _different(names: list[str], otherwise: str) -> str:
    return f"different: {', '.join(names[:30])}{' ...' if len(names) > 30 else ''}" if names else otherwise


CHECKS: dict[str, Callable[[Run], Outcome]] = {
    "corpus": check_corpus,
    "batches": check_dataset,
    "no leak": check_no_leak,
    "model": check_model,
    "model files": check_model_files,
    "manifest": check_manifest,
    "round trip": check_roundtrip,
    "round trip in fp64": check_fp64,
    "resumed run": check_resumed_run,
    "beats n-grams on val": lambda run: check_beats_baselines(run, "val"),
    "beats n-grams on test": lambda run: check_beats_baselines(run, "test"),
    "plots": check_plots,
    "training log": check_log,
    "first step": check_first_step,
    "fp16 drift plot": check_drift_picture,
    "no pickle": check_no_pickle,
    "arithmetic": check_arithmetic,
    "MLflow run": check_tracking,
}
# What an experiment may fail and still be recorded: how good the model is, and a server that is down. All others are
# about the files being right.
RESULT_CHECKS = {"beats n-grams on val", "beats n-grams on test", "MLflow run"}


def evaluate(name: str, run: Run) -> CheckResult:
    """One check. Whatever goes wrong on the way fails it, with the reason: the other checks still count."""
    try:
        return CheckResult(name, *CHECKS[name](run))
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else repr(error)
        got = "the same error as above" if reason in run.errors else reason
        run.errors.add(reason)
        return CheckResult(name, "to be readable", got, False)
