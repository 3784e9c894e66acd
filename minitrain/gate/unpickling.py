"""A short deny-list, read off the syntax tree. The linter's rules (S301, S302, S403, S506 ...) see the rest."""

import ast
from pathlib import Path

from minitrain.base import files

DENIED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def unpickling(path: Path) -> list[str]:
    """Imports of modules that unpickle, and ``allow_pickle`` other than False, as ``path:line: what``."""
    found = []
    for node in ast.walk(ast.parse(files.read_text(path), filename=str(path))):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                modules = [f"{module}.{alias.name}" for alias in names]
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                modules = ["allow_pickle"]
            case _:
                continue
        denied = [name for name in modules if name == "allow_pickle" or DENIED_MODULES & set(name.split("."))]
        found += [f"{path}:{node.lineno}: {name}" for name in denied]
    return found
