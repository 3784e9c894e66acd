"""Installed packages against the locked ones: a note, since arithmetic is exact. A changed byte shows in the checks."""

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement

from minitrain.base import files, layout


def locked(environment: dict[str, str] | None = None) -> list[Requirement]:
    """What requirements.lock pins for this Python, or for one whose markers are in ``environment``."""
    lines = files.read_text(layout.REQUIREMENTS_LOCK).splitlines()
    every = [Requirement(line.rstrip("\\ ")) for line in lines if "==" in line and not line.startswith((" ", "#"))]
    return [package for package in every if not package.marker or package.marker.evaluate(environment)]


def note() -> str:
    """Which packages are not as locked, for people."""
    here = {package: _installed(package.name) for package in locked()}
    other = [f"{p.name} {got} instead of {p.specifier}" for p, got in here.items() if f"=={got}" != str(p.specifier)]
    return f"note: other packages than locked: {', '.join(other)}" if other else f"{len(here)} packages as locked"


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "nothing"
