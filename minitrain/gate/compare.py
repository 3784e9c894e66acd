"""Files against what they should be."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from minitrain.base import files

TOLERANCE = 1e-3  # relative, on numbers computed where equal bits are not promised
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def different_files(folder: Path, expected: Mapping[str, bytes]) -> list[str]:
    """The names of the files in a folder that are missing, too many or of other content."""
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    wrong = sorted(found ^ expected.keys())
    return wrong + [name for name in expected if name in found and files.read_bytes(folder / name) != expected[name]]


def agrees(path: Path, expected: bytes) -> bool:
    """Whether a table or JSON file says the same within the tolerance; of other files, whether there is one.

    Pictures, and the list of flips between nearly equal tokens, show the last bits of a number.
    """
    if path.suffix not in (".json", ".csv"):
        return bool(files.read_bytes(path))
    return close(files.read_text(path), expected.decode())


def close(left: str, right: str) -> bool:
    """Whether two texts are equal, but for numbers that are not both whole, which may differ by TOLERANCE."""
    return NUMBER.sub("0", left) == NUMBER.sub("0", right) and all(
        a == b
        or (not (a.isdigit() and b.isdigit()) and math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=1e-9))
        for a, b in zip(NUMBER.findall(left), NUMBER.findall(right), strict=False)
    )
