"""The project's own code as data: what a script imports, its digest, and whether anything in it unpickles."""

import ast
from collections.abc import Iterator
from pathlib import Path

from minitrain import files
from minitrain.errors import UserError

PACKAGES = ("minitrain", "stages")
UNPICKLING_MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
UNPICKLING_CALLS = {"save", "savez", "savez_compressed"}  # of numpy: they pickle object arrays
ALWAYS_UNPICKLING = {
    "read_pickle",
    "to_pickle",
    "unsafe_load",
    "full_load",
    "exec",
    "eval",
}  # whatever they are called on


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
        tree = ast.parse(files.read_text(path), filename=str(path))
        for module in _imported_modules(tree):
            if module.split(".")[0] not in PACKAGES:
                continue
            parts = module.split(".")
            for depth in range(1, len(parts) + 1):
                base = Path(*parts[:depth])
                waiting += [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
    return sorted(found)


def code_digest(script: Path) -> str:
    """sha256 over the names and contents of a script's import closure."""
    return files.sha256(
        "".join(f"{path.as_posix()} {files.sha256_file(path)}\n" for path in import_closure(script)).encode()
    )


def pickle_uses(path: Path) -> list[str]:
    """Everything in a Python file that pickles or could unpickle, as ``line: what``; read off the syntax tree.

    Found are imports of modules that unpickle, by statement or by ``__import__`` and ``import_module``;
    ``np.load`` unless it says ``allow_pickle=False``; any ``allow_pickle`` other than False; ``np.save``
    and its relatives, which pickle object arrays; pandas' pickles, YAML's unsafe loaders, exec and eval.
    """
    tree = ast.parse(files.read_text(path), filename=str(path))
    numpy_names = {"np", "numpy"} | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "numpy"
    }
    uses = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            uses += [(node.lineno, f"import of {name}") for name in names if UNPICKLING_MODULES & set(name.split("."))]
            if isinstance(node, ast.ImportFrom):
                members = [f"{node.module}.{alias.name}" for alias in node.names]
                uses += [(node.lineno, f"import of {m}") for m in members if UNPICKLING_MODULES & set(m.split("."))]
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
                uses += [
                    (node.lineno, f"import of numpy.{a.name}")
                    for a in node.names
                    if a.name == "load" or a.name in UNPICKLING_CALLS
                ]
        elif isinstance(node, ast.Call):
            uses += [(node.lineno, what) for what in _pickling_call(node, numpy_names)]
    return [f"{line}: {what}" for line, what in sorted(uses)]


def _pickling_call(call: ast.Call, numpy_names: set[str]) -> Iterator[str]:
    function = call.func
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    of_numpy = (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in numpy_names
    )
    allow = [keyword.value for keyword in call.keywords if keyword.arg == "allow_pickle"]
    forbidden = [not (isinstance(value, ast.Constant) and value.value is False) for value in allow]
    if any(forbidden):
        yield f"{name}(allow_pickle=...)"
    elif of_numpy and (name in UNPICKLING_CALLS or (name == "load" and not allow)):
        yield f"numpy.{name}"
    elif name in ALWAYS_UNPICKLING:
        yield name
    elif name in ("__import__", "import_module") and call.args:
        argument = call.args[0]
        if isinstance(argument, ast.Constant) and str(argument.value).split(".")[0] in UNPICKLING_MODULES:
            yield f"{name}({argument.value!r})"


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise UserError(f"line {node.lineno}: a relative import. Name the module in full, so that it is found.")
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
