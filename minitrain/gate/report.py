"""The gate for people: lines for the terminal, and the page ``PHASE_18_REPORT.md``. Nothing is measured here."""

import html
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from minitrain.base import UserError, formats, layout
from minitrain.gate.checks import CheckResult
from minitrain.training.export import read_manifest

INDENT = 29  # columns of the terminal before what a check says


def terminal_line(result: CheckResult, colored: bool) -> str:
    """A check in 80 columns: one line, or more where it says more."""
    expected, got = formats.printable(result.expected), formats.printable(result.got)
    said = [f"{expected}: {got}"] if result.passed else [f"expected {expected}", f"got {got}"]
    lines = [line for text in said for line in textwrap.wrap(text, 80 - INDENT, break_long_words=False)]
    mark, color = ("ok  ", "32") if result.passed else ("FAIL", "31")
    mark = f"\x1b[{color}m{mark}\x1b[0m" if colored else mark
    return f"{mark}  {result.name:{INDENT - 6}}" + f"\n{'':{INDENT}}".join(lines)


def said(result: CheckResult, colored: bool) -> CheckResult:
    """The result, once it is printed."""
    print(terminal_line(result, colored))
    return result


def page(results: Sequence[CheckResult], red: str) -> bytes:
    """The report, Markdown, with as much of the results in it as can be read; ``red`` says what is, if anything.

    Equal results give equal bytes on every machine: the report is committed.
    """
    lines = [
        "# Phase 18: training loop, checkpointing, mixed-precision preview",
        "",
        f"**{f'THE GATE IS RED: {red}.' if red else 'All items of the gate hold.'}**",
        "",
        f"Model: {_read(_model) or 'none that could be read'}",
        "",
        "`verify` writes this file at every run.",
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
    for split, scores in formats.read_json(layout.PLOTS / "baseline-compare" / "scores.json").items():
        lines.append(f"| {_text(split)} | {' | '.join(format(scores[key], '.3f') for key in keys)} |")
    return "\n".join([*lines, "\n![perplexity over n](plots/baseline-compare/perplexity_vs_n.png)"])


def _drift() -> str:
    metrics: Mapping[str, Any] = formats.read_json(layout.PLOTS / "fp16-drift" / "drift.json")
    lines = [
        "\n## Drift under fp16 and bf16\n",
        f"| format | rounded | logits, relative L2 | argmax changed: contexts (of {metrics['positions']:,} positions) "
        "| perplexity |",
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
            changed = f"{m['argmax_flip_contexts']:d} ({m['argmax_flips']:d})"
            lines.append(f"| {name} | {mode.replace('_', ' ')} | {off} | {changed} | {ppl} |")
    return "\n".join([*lines, "\n![drift per layer](plots/fp16-drift/drift_per_layer.png)"])
