"""JSON and CSV in one spelling each, so that equal values give equal bytes; YAML as DVC reads it."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from minitrain.base import UserError, files


def json_bytes(value: Any) -> bytes:
    """Canonical JSON: sorted keys, two spaces, UTF-8, no NaN, one newline at the end."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def metrics_bytes(value: Any) -> bytes:
    """Canonical JSON with every float rounded to six significant digits, see ``rounded``."""
    return json_bytes(rounded(value))


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table with a header. Floats keep nine significant digits, which tell any two float32 apart."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # quotes a cell that holds a comma
    writer.writerow(columns)
    writer.writerows([format(cell, ".9g") if isinstance(cell, float) else str(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def printable(text: str) -> str:
    """``text`` on one line that no terminal takes for a command: what does not print, as in ``\\n``, is written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def rounded(value: Any) -> Any:
    """``value`` with every float in it rounded to six significant digits.

    Nobody compares more digits.
    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(member) for member in value]
    return value


def read_json(path: Path, expected_sha256: str | None = None) -> Any:
    """The value in a JSON file; UserError names the line where the syntax breaks."""
    try:
        return json.loads(files.read_text(path, expected_sha256))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}:{getattr(error, 'lineno', 1)}: expected JSON: {error}. Make the file again with its stage, by "
            "dvc repro --force."
        ) from error


def read_yaml(path: Path) -> Any:
    """The value in a YAML file, by the library that DVC uses: what trains is what DVC records. UserError if broken."""
    try:
        return YAML(typ="safe").load(files.read_text(path))
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected YAML: {' '.join(str(error).split())}") from error
