"""Reads ``course/reasons.md``: why each line is there, and how it could be wrong.

In this file ``# HEADING`` and ``## FILE FUNCTION`` begin sections; the text below them stands in the chapter as it is.
``- `LINE` `` names a statement by its first line, indented text below it is its reason, and each ``instead: CODE`` is a
wrong version. ``same: ARGUMENT`` says why no test can notice the change above it: this one, or the line left out.
"""

import ast
from dataclasses import dataclass, field
from pathlib import Path

from course import mutants
from minitrain.base import UserError

ROOT = Path(__file__).resolve().parent.parent
REASONS = ROOT / "course" / "reasons.md"
LEFT_OUT = ""  # the change that leaves a statement out


@dataclass
class Line:
    """A statement, what there is to say about it, and every change that is tried: the code in its place."""

    statement: mutants.Statement
    why: str = ""
    changes: list[str] = field(default_factory=lambda: [LEFT_OUT])
    same: dict[str, str] = field(default_factory=dict)  # by change: why no test can notice it


@dataclass
class Section:
    """A heading of the chapter, or a function, which has none."""

    heading: str
    file: str = ""
    function: str = ""
    text: str = ""
    lines: list[Line] = field(default_factory=list)
    digest: str = ""  # of the function as Python sees it


def function_section(file: str, function: str) -> Section:
    """A function about which nothing is said: each statement left out, each ``if`` held for true."""
    source = (ROOT / file).read_text()
    lines = [Line(statement) for statement in mutants.statements(source, function)]
    for line in lines:
        if isinstance(line.statement.node, ast.If):
            line.changes.append(mutants.ALWAYS)
    return Section("", file, function, "", lines, mutants.digest(source, function))


def read_reasons() -> list[Section]:
    """The sections of the file; UserError, with the line, where it names what the code has not."""
    sections: list[Section] = []
    for number, text in enumerate(REASONS.read_text().splitlines(), 1):
        word, _, rest = text.strip().partition(" ")
        if text.startswith("# "):
            sections.append(Section(rest))
        elif text.startswith("## "):
            file, function = rest.split()
            sections.append(function_section(file, function))
            ahead = iter(sections[-1].lines)
        elif text.startswith("- "):
            try:
                line = next(line for line in ahead if line.statement.line == rest.strip("`"))
            except StopIteration:
                raise UserError(
                    f"{REASONS.name}:{number}: {sections[-1].function} has no such line here: {rest}. Its lines "
                    f"from the top: {'; '.join(line.statement.line for line in sections[-1].lines)}"
                ) from None
            change = LEFT_OUT
        elif word == "instead:":
            change = rest
            if change not in line.changes:
                line.changes.append(change)
        elif word == "same:":
            line.same[change] = rest
        elif text.startswith("  "):
            line.why += f" {text.strip()}"
        else:
            sections[-1].text += f"{text}\n"
    return sections
