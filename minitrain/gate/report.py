"""The gate for people: a table for the terminal, and the page ``PHASE_18_REPORT.md``. Nothing is measured here."""

import html
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from minitrain.base import UserError, formats, layout
from minitrain.gate.checks import CheckResult
from minitrain.training.export import read_manifest


def gate_table(results: Sequence[CheckResult]) -> str:
    """One line a check."""
    width = max(len(r.name) for r in results)
    lines = [f"{'ok  ' if r.passed else 'FAIL'}  {r.name:{width}}  expected {r.expected}; got {r.got}" for r in results]
    failed = sum(not r.passed for r in results)
    return "\n".join([*map(formats.printable, lines), f"{len(results) - failed} passed, {failed} failed"])


def page(results: Sequence[CheckResult], red: str, tracking_line: str, machine: str) -> bytes:
    """The report, Markdown, with as much of the results in it as can be read; ``red`` says what is, if anything."""
    lines = [
        "# Phase 18: training loop, checkpointing, mixed-precision preview",
        "",
        f"**{f'THE GATE IS RED: {red}.' if red else 'All items of the gate hold.'}**",
        "",
        f"- Model: {_read(_model) or 'none that could be read'}",
        f"- {_text(tracking_line)}",
        f"- Machine of this report: {machine}",
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
        f"| {'ok' if r.passed else '**FAIL**'} | {r.name} | {_text(r.expected)} | {_text(r.got)} |" for r in results
    ]
    training = "\n## Training\n\n![loss](plots/train/loss.png)\n"
    return "\n".join([*lines, _read(_against_ngrams), _read(_drift), training]).encode()


def _read(section: Any) -> str:
    """A section; nothing where the files that it needs are missing or no metrics."""
    with suppress(UserError, KeyError, TypeError, AttributeError, ValueError):
        return str(section())
    return ""


def _text(text: str) -> str:
    """``text`` as Markdown that shows it as it is: a file's name, or a message that holds one, may be markup."""
    return re.sub(r"([\\`*_~|\[\]])", r"\\\1", html.escape(formats.printable(text), quote=False))


def _model() -> str:
    manifest = read_manifest(layout.MODELS)
    trained = f"trained for {manifest['step']:,} steps, best at step {manifest['metrics']['best_step']:,}"
    return f"{_text(manifest['model'])} ({manifest['parameters']:,} parameters, {trained})"


def _against_ngrams() -> str:
    lines = [
        "\n## Against the n-grams\n",
        "| split | model | best add-alpha | best Kneser-Ney | floor | model / best n-gram |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    keys = ("model_ppl", "best_add_alpha_ppl", "best_kneser_ney_ppl", "floor_ppl", "ratio_to_best_baseline")
    for split, scores in formats.read_json(layout.metrics_path("baseline-compare")).items():
        lines.append(f"| {_text(split)} | {' | '.join(format(scores[key], '.3f') for key in keys)} |")
    return "\n".join([*lines, "\n![perplexity over n](plots/baseline-compare/perplexity_vs_n.png)"])


def _drift() -> str:
    metrics: Mapping[str, Any] = formats.read_json(layout.metrics_path("fp16-drift"))
    lines = [
        "\n## Drift under fp16 and bf16\n",
        "| format | rounded | logits, relative L2 | argmax flips | perplexity |",
        "|---|---|---:|---:|---:|",
        f"| fp32 | nothing | 0 | 0 | {metrics['perplexity_fp32']:.4f} |",
    ]
    for name in ("fp16", "bf16"):
        for mode in ("weights", "weights_and_activations"):
            m = metrics[name][mode]
            off, ppl = (
                "overflow" if number is None else format(number, spec)
                for number, spec in ((m["layers"]["logits"]["relative_l2"], ".2e"), (m["perplexity"], ".4f"))
            )
            lines.append(f"| {name} | {mode.replace('_', ' ')} | {off} | {m['argmax_flips']:d} | {ppl} |")
    return "\n".join([*lines, "\n![drift per layer](plots/fp16-drift/drift_per_layer.png)"])
