"""What a script of the project imports, read off the syntax tree."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("minitrain", "stages")


def import_closure(script: Path) -> list[Path]:
    """The project files that ``script`` (a path below the project's root, the working folder) imports, itself included.

    Sorted; follows imports anywhere in a file, inside functions too, and counts the packages' ``__init__.py``.
    """
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [init for folder in path.parents if (init := folder / "__init__.py").is_file()]
        for module in imported_modules(path):
            parts = module.split(".")
            for depth in range(1, len(parts) + 1 if parts[0] in PACKAGES else 0):
                base = Path(*parts[:depth])
                waiting += [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    return sorted(found)


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file may import, and the names that may be modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import. Name the module in full."
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
