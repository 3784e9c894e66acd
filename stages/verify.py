"""Stage verify: the gate. Every item of the definition of done, recomputed from the files themselves.

Reads everything that the other stages leave. Leaves ``plots/verify/metrics.json`` and, for people,
``PHASE_18_REPORT.md``. Prints a line an item, with what was expected and what was got; exits non-zero
when one of them fails.
"""

import os
import platform

from minitrain import tracking
from minitrain.base import UserError, files, formats, layout, process
from minitrain.gate import checks, report
from minitrain.gate.run import Run
from minitrain.params import read_params


def main() -> None:
    run = Run(read_params())
    tracking_line = tracking.log_or_say_why_not(layout.STAGES[1:])
    results = [checks.evaluate(name, run) for name in checks.CHECKS]
    print(report.gate_table(results))
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    files.write_bytes(layout.REPORT, report.page(results, tracking_line, machine))
    red = [result.name for result in results if not result.passed]
    # `dvc exp run` records nothing when a stage fails. There, a model that does not beat the n-grams is a result.
    tolerated = checks.RESULT_CHECKS if "DVC_EXP_BASELINE_REV" in os.environ else set()
    if set(red) - tolerated:
        raise UserError(f"the gate is red: {', '.join(red)}. {layout.REPORT} has the details.")
    if red:
        print(f"an experiment: recorded although red: {', '.join(red)}")
    metrics = {"items": len(results), "passed": len(results) - len(red)}
    files.write_bytes(layout.metrics_path("verify"), formats.metrics_bytes(metrics))


if __name__ == "__main__":
    process.run_command(main)
