"""Writes the chapter of the loop, ``docs/course/4-loop.md``: ``python -m course.chapter``.

From the code, the reasons in ``course/reasons.md`` and what ``course/explain.py`` saw. With ``--check`` nothing is
written; it fails when a line has no reason, when the code is not the code that was broken, or when the page is stale.
"""

import argparse
import ast
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from course import mutants
from course.explain import ENGINE, all_sections, check, name, read_seen
from course.reasons import LEFT_OUT, ROOT, Line, Section
from minitrain.base import UserError, files, process

PAGE = ROOT / "docs" / "course" / "4-loop.md"

BEGIN = """# 4. The loop, line by line

<!-- Written by `python -m course.chapter`. To change it: course/reasons.md, then `make explain`. -->

This chapter goes through the code of a run in the order in which it works: the first state, the loop, and what the
loop calls. Each function stands there whole; then it says of each statement why it is there, and what happens when it
is left out or replaced by a wrong version. It is long: read it beside the code, and skip what you know.

How to read it:

- *Left out*: the statement is gone. Of an `if`, `for`, `with`, `try` or `match` its body is gone too.
- *Instead*: a wrong version stands there. Of an `if` or a loop the body stays.
- *Seen*: what a training of 60 steps shows (warm-up 10, evaluation every 20; stopped after step 50 and resumed from its
  checkpoint of step 45). First the first line of its output that is different, then the last evaluation.
- *Test*: the first test that goes red. Tests run in the same order each time, so a general one often comes first.
- *Fails at once*: a later line needs the value. Such a line cannot be forgotten without being told.

"""
SILENT = """## The silent ones

Each of these runs ends well, with a validation perplexity within 1 % of the right one. Its curve does not show them; a
test does. Before you read on: can you say what is wrong with each?

| in | line | instead | perplexity after 60 steps |
|---|---|---|---|
"""
LAST = re.compile(r"step 60: validation perplexity ([\d.]+)` instead of `validation perplexity ([\d.]+)`")


END = """No line of these is explained here: `course/plain.py` does that. But every statement of
{files}
was left out too, and every `if` was made to hold always: {n} changes. Gradient checks, the plain twin or the tests of
arithmetic and model noticed each of them, but for those below.
"""
EXCEPT = "None can notice `{line}` in `{function}`. {why}\n"


def code(section: Section) -> str:
    """The function without its docstring."""
    source = (ROOT / section.file).read_text()
    function = mutants.functions(ast.parse(source))[section.function]
    start = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)]) - 1
    lines = source.splitlines()[start : function.end_lineno]
    if ast.get_docstring(function):
        docstring = function.body[0]
        del lines[docstring.lineno - 1 - start : (docstring.end_lineno or start) - start]
    text = textwrap.dedent("\n".join(lines))
    return f"```python\n{text}\n```"


def title(section: Section) -> str:
    """The heading of a function."""
    return f"`{section.function}` in {section.file}"


def contents(sections: Sequence[Section]) -> str:
    """Links to all functions, in their order; an anchor is spelled as GitHub does it."""
    anchors = {s.function: re.sub(r"[^\w -]", "", title(s).lower()).replace(" ", "-") for s in sections if s.file}
    return "The functions: " + ", ".join(f"[`{function}`](#{anchor})" for function, anchor in anchors.items()) + "."


def silent(seen: dict[str, Any]) -> str:
    """The table of changes after which a run ends nearly as well as the right one."""
    rows = []
    for function, of_function in seen.items():
        for line, change, _, shown in of_function["changes"]:
            last = LAST.search(shown)
            if last and abs(float(last[1]) / float(last[2]) - 1) < 0.01 and "resumed" not in shown:
                instead = f"`{change}`" if change else "nothing"
                name = f"`{function.split()[1]}`"
                rows.append(f"| {name} | `{line.split('  #')[0]}` | {instead} | {last[1]}, not {last[2]} |\n")
    return SILENT + "".join(rows)


def what_was_seen(line: Line, rows: Sequence[Sequence[str]]) -> str:
    """A list: each change, what it shows, and the test."""
    items = []
    for _, change, test, shown in rows:
        broken = "Left out" if change == LEFT_OUT else f"Instead `{change}`"
        seen = f"Seen: {shown}." if shown else "Seen: nothing in 60 steps."
        if re.search("NameError|NoneType|UnboundLocalError", shown):
            seen = "Fails at once."
        where = f"`tests/{test}`" if "::" in test else f"each in `tests/{test}`" if test.endswith(".py") else test
        items.append(f"- {broken}. {seen} {f'Test: {where}.' if test else f'No test: {line.same[change]}'}")
    return "\n".join(items)


def page(sections: Sequence[Section], seen: dict[str, Any]) -> str:
    """The chapter."""
    explained = [section for section in sections if section.file not in ENGINE]
    parts = [BEGIN, contents(explained), silent(seen)]
    engine = [(section, line) for section in sections if section.file in ENGINE for line in section.lines]
    for section in explained:
        parts.append(f"### {title(section)}" if section.file else f"## {section.heading}")
        parts.append(section.text.strip())
        if section.file:
            parts.append(code(section))
        rows = iter(seen.get(name(section), {}).get("changes", []))
        for line in section.lines:
            if not line.why:
                raise UserError(f"course/reasons.md: {name(section)}: no reason for the line {line.statement.line!r}")
            parts.append(f"**`{line.statement.line.split('  #')[0]}`**{line.why}")
            parts.append(what_was_seen(line, [next(rows) for _ in line.changes]))
    files = ", ".join(f"`{file}`" for file in ENGINE)
    parts.append(END.format(files=files, n=sum(len(line.changes) for _, line in engine)))
    parts += [
        EXCEPT.format(line=line.statement.line, function=section.function, why=why)
        for section, line in engine
        for why in line.same.values()
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.chapter")
    parser.add_argument("--check", action="store_true", help="only fail when the page is not what it should be")
    sections, seen = all_sections(), read_seen()
    check(sections, seen)
    text = page(sections, seen).encode()
    if not parser.parse_args().check:
        files.write_bytes(PAGE, text)
    elif PAGE.read_bytes() != text:
        raise UserError(f"{PAGE.relative_to(ROOT)} is stale. Write it again: python -m course.chapter")


if __name__ == "__main__":
    process.run_command(main)
