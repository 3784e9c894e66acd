"""Installed packages against the locked ones: a note, since arithmetic is exact. A changed byte shows in the checks."""

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from minitrain.base import files, layout


def note() -> str:
    """Which packages are not as locked, for people."""
    lines = files.read_text(layout.REQUIREMENTS_LOCK).splitlines()
    locked = [Requirement(line.rstrip("\\ ")) for line in lines if "==" in line and not line.startswith((" ", "#"))]
    here = {package: _installed(package.name) for package in locked if not package.marker or package.marker.evaluate()}
    other = [f"{p.name} {got} instead of {p.specifier}" for p, got in here.items() if f"=={got}" != str(p.specifier)]
    return f"note: other packages than locked: {', '.join(other)}" if other else f"{len(here)} packages as locked"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "nothing"
