"""The project's own code as data: what a script imports, its digest, and whether anything in it unpickles."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from minitrain import files
from minitrain.errors import UserError

PACKAGES = ("minitrain", "stages")
UNPICKLING_MODULES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
ALWAYS_UNPICKLING = {
    "read_pickle",
    "to_pickle",
    "unsafe_load",
    "unsafe_load_all",
    "full_load",
    "full_load_all",
    "exec",
    "eval",
}  # whatever they are called on
UNPICKLING_MEMBERS = {  # by library, in whichever of its modules
    "numpy": {"*", "load", "read_array", "save", "savez", "savez_compressed", "write_array"},  # pickle object arrays
    "pandas": {"*"},
    "torch": {"*", "load", "save"},
    "yaml": {"*", "Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader", "CUnsafeLoader"},
}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "BaseLoader", "CBaseLoader"}  # of yaml


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
    and its relatives, which pickle object arrays; PyTorch's ``load`` and ``save``; pandas' pickles; YAML's
    loaders but for those known as safe and classes made of them in the same file; exec and eval. All of them
    under whatever name they are imported.
    """
    tree = ast.parse(files.read_text(path), filename=str(path))
    # What a name may stand for: two functions may import different things under one.
    origins = defaultdict(set, {"np": {"numpy"}, "numpy": {"numpy"}})
    uses = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            package = f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = package + alias.name
                known_as = alias.asname or alias.name.split(".")[0]
                origins[known_as].add(name if package or alias.asname else known_as)
                if _unpickles(name):
                    uses.append((node.lineno, f"import of {name}"))
    own_loaders: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            if node.bases and all(_is_safe_loader(base, origins, own_loaders) for base in node.bases):
                own_loaders.add(node.name)
            bases = [name for base in node.bases for name in _full_names(base, origins) if _unpickles(name)]
            uses += [(node.lineno, f"class made of {name}") for name in bases]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            uses += [(node.lineno, what) for what in _pickling_call(node, origins, own_loaders)]
    return [f"{line}: {what}" for line, what in sorted(uses)]


def _pickling_call(call: ast.Call, origins: Mapping[str, set[str]], own_loaders: set[str]) -> Iterator[str]:
    names = _full_names(call.func, origins)
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    allow = [keyword.value for keyword in call.keywords if keyword.arg == "allow_pickle"]
    loaders = [keyword.value for keyword in call.keywords if keyword.arg == "Loader"]
    if not all(isinstance(value, ast.Constant) and value.value is False for value in allow):
        yield f"{ast.unparse(call.func)}(allow_pickle=...)"
    for name in names:
        library, member = name.split(".")[0], name.split(".")[-1]
        if library == "yaml" and member in ("load", "load_all"):
            loaders += call.args[1:2]
            if not loaders:
                yield f"{name} without a Loader"
        elif _unpickles(name) and not (library == "numpy" and member in ("load", "read_array") and allow):
            yield name
        elif member in ("__import__", "import_module"):
            for argument in arguments:
                if isinstance(argument, ast.Constant) and UNPICKLING_MODULES & set(str(argument.value).split(".")):
                    yield f"{name}({argument.value!r})"
    if not all(_is_safe_loader(loader, origins, own_loaders) for loader in loaders):
        yield f"{ast.unparse(call.func)} with a Loader that is not known as safe"


def _full_names(node: ast.expr, origins: Mapping[str, set[str]]) -> list[str]:
    """What an expression such as ``np.lib.npyio.load`` may name, from its library on."""
    attributes = ""
    while isinstance(node, ast.Attribute):
        attributes = f".{node.attr}{attributes}"
        node = node.value
    if not isinstance(node, ast.Name):  # a method of something computed
        return [attributes]
    return [origin + attributes for origin in sorted(origins.get(node.id, {node.id}))]


def _unpickles(name: str) -> bool:
    parts = name.split(".")
    return (
        not UNPICKLING_MODULES.isdisjoint(parts)
        or parts[-1] in ALWAYS_UNPICKLING
        or parts[-1] in UNPICKLING_MEMBERS.get(parts[0], ())
    )


def _is_safe_loader(node: ast.expr, origins: Mapping[str, set[str]], own_loaders: set[str]) -> bool:
    return all(
        name in own_loaders or (name.split(".")[0] == "yaml" and name.split(".")[-1] in SAFE_LOADERS)
        for name in _full_names(node, origins)
    )


def _imported_modules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise UserError(f"line {node.lineno}: a relative import. Name the module in full, so that it is found.")
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
