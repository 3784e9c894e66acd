"""``PHASE_18_REPORT.md``: what a run achieved, for people. Markdown from values; nothing is measured here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Item:
    """One line of the gate: what is promised, what was expected, what was got."""

    name: str
    expected: str
    got: str
    passed: bool


def gate_table(items: Sequence[Item]) -> str:
    """The gate for the terminal, one line an item."""
    width = max(len(item.name) for item in items)
    lines = [f"{'ok  ' if i.passed else 'FAIL'}  {i.name:{width}}  expected {i.expected}; got {i.got}" for i in items]
    failed = sum(not item.passed for item in items)
    return "\n".join([*lines, f"{len(items) - failed} passed, {failed} failed"])


def page(
    items: Sequence[Item],
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    run_uri: str,
    machine: Mapping[str, str],
) -> str:
    """The report. ``metrics`` holds each stage's ``metrics.json`` by stage name."""
    passed = all(item.passed for item in items)
    lines = [
        "# Phase 18: training loop, checkpointing, mixed-precision preview",
        "",
        f"**{'All items of the gate hold.' if passed else 'THE GATE IS RED: see below.'}**",
        "",
        *_model(manifest),
        f"- MLflow run: `{run_uri}`",
        f"- Machine of this report: {', '.join(f'{name} {value}' for name, value in machine.items())}",
        "",
        "This file is written by `verify` at every run; the MLflow run and the machine in it change from place "
        "to place, so it is in no commit.",
        "",
        "## The gate",
        "",
        "| | item | expected | got |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {'ok' if i.passed else '**FAIL**'} | {i.name} | {_cell(i.expected)} | {_cell(i.got)} |" for i in items
    ]
    if "baseline-compare" in metrics:
        lines += _against_ngrams(metrics["baseline-compare"])
    if "fp16-drift" in metrics:
        lines += _drift(metrics["fp16-drift"])
    lines += ["", "## Training", "", "![loss](plots/train/loss.png)", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _model(manifest: Mapping[str, Any]) -> list[str]:
    if not manifest:
        return ["- Model: none that could be read"]
    trained = f"trained for {manifest['step']:,} steps, best at step {manifest['metrics']['best_step']:,}"
    return [f"- Model: `models/{manifest['model']}` ({manifest['parameters']:,} parameters, {trained})"]


def _against_ngrams(metrics: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## Against the n-grams",
        "",
        "| split | model | best add-alpha | best Kneser-Ney | floor | model / best n-gram |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for split, m in metrics.items():
        numbers = (
            m["model_ppl"],
            m["best_add_alpha_ppl"],
            m["best_kneser_ney_ppl"],
            m["floor_ppl"],
            m["ratio_to_best_baseline"],
        )
        lines.append(f"| {split} | {' | '.join(format(number, '.3f') for number in numbers)} |")
    return [*lines, "", "![perplexity over n](plots/baseline-compare/perplexity_vs_n.png)"]


def _drift(metrics: Mapping[str, Any]) -> list[str]:
    lines = [
        "",
        "## Drift under fp16 and bf16",
        "",
        "| format | rounded | logits, relative L2 | argmax flips | perplexity |",
        "|---|---|---:|---:|---:|",
    ]
    lines.append(f"| fp32 | nothing | 0 | 0 | {metrics['perplexity_fp32']:.4f} |")
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            m = metrics[name][mode]
            logits, perplexity = m["layers"]["logits"]["relative_l2"], m["perplexity"]
            if logits is None or perplexity is None:
                lines.append(f"| {name} | {mode.replace('_', ' ')} | overflow | {m['argmax_flips']} | overflow |")
                continue
            lines.append(
                f"| {name} | {mode.replace('_', ' ')} | {m['layers']['logits']['relative_l2']:.2e} | "
                f"{m['argmax_flips']} | {m['perplexity']:.4f} |"
            )
    return [*lines, "", "![drift per layer](plots/fp16-drift/drift_per_layer.png)"]
