"""What the tests of the gate share."""

import json
from pathlib import Path

from minitrain import files
from minitrain.params import read_params
from stages import verify

BEATS = verify.RESULT_ITEMS  # 24 steps are too few for that


def failed(project: Path, monkeypatch) -> dict[str, str]:
    """The items that fail, with what they got."""
    monkeypatch.chdir(project)
    gate = verify.Run(read_params())
    items = [verify.check(name, item, gate) for name, item in verify.ITEMS]
    return {item.name: item.got for item in items if not item.passed}


def change_json(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    files.write_json(path, value)


def manifest(project: Path) -> Path:
    return next((project / "models").glob("*.manifest.json"))
