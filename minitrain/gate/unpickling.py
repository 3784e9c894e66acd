"""A short deny-list, read off the syntax tree. The linter's rules (S301, S302, S403, S506 ...) see the rest."""

import ast
import re
from pathlib import Path

from minitrain.base import files

DENIED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def unpickling(path: Path) -> list[str]:
    """Imports of modules that unpickle, and ``allow_pickle`` other than False, as ``path:line: what``."""
    found = []
    for node in ast.walk(ast.parse(files.read_text(path), filename=str(path))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            denied = sorted(DENIED_MODULES & set(re.findall(r"\w+", ast.unparse(node))))
            found += [f"{path}:{node.lineno}: {name}" for name in denied]
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(f"{path}:{node.lineno}: allow_pickle")
    return found
