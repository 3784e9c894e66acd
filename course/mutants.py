"""Broken code: a function with one statement left out, or replaced by its nearest wrong version."""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

ALWAYS = "if True:"  # instead of any other ``if``


@dataclass(frozen=True)
class Statement:
    """One statement of a function, or a decorator of it."""

    line: str  # its first line, which names it
    code: str  # as it stands in the file; of an ``if``, ``for`` and so on the lines before its body
    node: ast.AST
    block: list  # the nodes among which it stands


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The same tree, changed in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return tree


def functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions and methods of a file by name, such as ``AdamW.update``."""
    found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            found |= {f"{owner.name}.{node.name}": node for node in owner.body if isinstance(node, ast.FunctionDef)}
    return found


def digest(source: str, function: str) -> str:
    """Of a function as Python sees it, see ``spelled``."""
    return hashlib.sha256(spelled(functions(without_docstrings(ast.parse(source)))[function]).encode()).hexdigest()[:16]


def spelled(node: object) -> str:
    """A syntax tree as text, without comments and places; the same in every Python, whose newer fields are empty."""
    if isinstance(node, ast.AST):
        fields = (f"{name}={spelled(value)}" for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(spelled, node))}]" if isinstance(node, list) else repr(node)


def statements(source: str, function: str) -> list[Statement]:
    """Every statement of a function, from top to bottom, those of functions inside it too."""
    tree = without_docstrings(ast.parse(source))
    return list(_statements(functions(tree)[function], source.splitlines()))


def _statements(function: ast.FunctionDef, lines: list[str]) -> Iterator[Statement]:
    for decorator in function.decorator_list:
        line = lines[decorator.lineno - 1].strip()
        yield Statement(line, line, decorator, function.decorator_list)
    yield from _of_block(function.body, lines)


def _of_block(block: list, lines: list[str]) -> Iterator[Statement]:
    for node in block:
        parts = [part for part in (getattr(node, name, []) for name in ("body", "handlers", "cases", "orelse")) if part]
        if isinstance(node, ast.FunctionDef):
            yield from _statements(node, lines)
            continue
        is_type = isinstance(node, ast.AnnAssign) and node.value is None  # and nothing else
        if hasattr(node, "lineno") and not is_type and not isinstance(node, ast.Pass | ast.ExceptHandler):
            last = node.end_lineno
            if parts:  # up to its body
                first = parts[0][0]
                last = (first.pattern.lineno if isinstance(first, ast.match_case) else first.lineno) - 1
            code = [line for line in lines[node.lineno - 1 : last] if not line.strip().startswith("#")]
            yield Statement(code[0].strip(), "\n".join(code), node, block)
        for part in parts:
            yield from _of_block(part, lines)


def mutated(source: str, function: str, index: int, instead: str) -> str:
    """The source with one statement of a function left out, or with the code ``instead`` of it; of an ``if``, ``for``
    and so on the code is the line before the body, which stays.
    """
    tree = without_docstrings(ast.parse(source))
    statement = list(_statements(functions(tree)[function], source.splitlines()))[index]
    place = statement.block.index(statement.node)
    if not instead:
        statement.block[place : place + 1] = [ast.Pass()] if isinstance(statement.node, ast.stmt) else []
    elif instead.endswith(":"):
        (header,) = ast.parse(f"{instead.removeprefix('el')}\n    pass").body  # of an elif too
        for name in set(header._fields) - {"body", "orelse"}:
            setattr(statement.node, name, getattr(header, name))
    else:
        statement.block[place : place + 1] = ast.parse(instead).body
    return ast.unparse(tree)
