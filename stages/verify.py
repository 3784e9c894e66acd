"""Stage verify: the gate. Every item of the definition of done, recomputed from the files themselves.

Reads everything that the other stages leave. Leaves ``plots/verify/metrics.json`` and, for people,
``PHASE_18_REPORT.md``. Prints each item as it is decided; exits non-zero when one of them fails.
"""

import os
import sys

from minitrain import tracking
from minitrain.base import UserError, files, formats, layout, process
from minitrain.gate import checks, packages, report
from minitrain.gate.run import Run
from minitrain.minitorch import arithmetic
from minitrain.params import read_params


def main() -> None:
    run = Run(read_params())
    arithmetic.use(run.params.model.arithmetic)
    tracking.try_to(tracking.log_run, layout.STAGES[1:], {})
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    results = [report.said(checks.evaluate(name, run), colored) for name in checks.CHECKS]
    names = [result.name for result in results if not result.passed]
    print(f"{len(results) - len(names)} passed, {len(names)} failed; {packages.note()}")
    red = ", ".join(names)
    # `dvc exp run` records nothing when a stage fails. There, a model that does not beat the n-grams is a result, and a
    # night of work must not be lost over MLflow.
    recorded = "DVC_EXP_BASELINE_REV" in os.environ and set(names) <= checks.RESULT_CHECKS
    if names and recorded:
        red += " (recorded all the same: this is an experiment)"
    files.write_bytes(layout.REPORT, report.page(results, red))
    files.write_bytes(layout.PLOTS / "verify" / "metrics.json", formats.json_bytes({"failed": len(names)}))
    if names and not recorded:
        raise UserError(f"the gate is red: {red}. {layout.REPORT} has the details.")
    if names:
        print(f"THE GATE IS RED: {red}")


if __name__ == "__main__":
    process.run_command(main)
