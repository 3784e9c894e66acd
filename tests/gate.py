"""What the tests of the gate share."""

import json
from pathlib import Path

from minitrain import tracking
from minitrain.base import formats
from minitrain.base.layout import STAGES
from minitrain.gate import checks
from minitrain.gate.run import Run
from minitrain.params import read_params

BEATS = checks.RESULT_CHECKS  # 24 steps are too few for that


def failed(project: Path, monkeypatch) -> dict[str, str]:
    """The checks that fail, with what they got."""
    monkeypatch.chdir(project)
    tracking.log_or_say_why_not(STAGES[1:])  # as the gate does first
    run = Run(read_params())
    results = [checks.evaluate(name, run) for name in checks.CHECKS]
    return {result.name: result.got for result in results if not result.passed}


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_bytes(formats.json_bytes(value))


def manifest(project: Path) -> Path:
    return next((project / "models").glob("*.manifest.json"))
