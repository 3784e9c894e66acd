"""What runs here, and installed packages against the locked ones: a note, since arithmetic is exact. A changed byte
shows in the checks.
"""

import platform
from importlib.metadata import distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from minitrain.base import files, layout


def locked(environment: dict[str, str] | None = None) -> list[Requirement]:
    """What requirements.lock pins for this Python, or for one whose markers are in ``environment``."""
    lines = files.read_text(layout.REQUIREMENTS_LOCK).splitlines()
    every = [Requirement(line.rstrip("\\ ")) for line in lines if "==" in line and not line.startswith((" ", "#"))]
    return [package for package in every if not package.marker or package.marker.evaluate(environment)]


def note() -> str:
    """Python, machine, and which packages are not as locked, for people."""
    here = {canonicalize_name(package.name): package.version for package in distributions()}
    pins = {package.name: str(package.specifier) for package in locked()}
    got = {name: here.get(canonicalize_name(name), "nothing") for name in pins}
    other = [f"{name} {got[name]} instead of {pin}" for name, pin in pins.items() if pin != f"=={got[name]}"]
    found = f"other packages than locked: {', '.join(other)}" if other else f"{len(pins)} packages as locked"
    return f"Python {platform.python_version()}, {platform.system()}, {platform.machine()}; {found}"
