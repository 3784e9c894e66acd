"""The course: code is broken where it is said to be, and what was seen of other code counts no more."""

import ast

import pytest

from course import explain, mutants
from minitrain.base.errors import UserError

SOURCE = '''
class Thing:
    @decorated
    def method(self, x):
        """Docs."""
        if x < 1:
            return 1
        elif x < 2:  # a comment
            # another one
            x += 1
        for i in range(3):
            match x:
                case 1:
                    x = (
                        2
                    )
                case _:
                    pass

        def inner(y):
            return y

        return x
'''
LINES = [
    "@decorated",
    "if x < 1:",
    "return 1",
    "elif x < 2:  # a comment",
    "x += 1",
    "for i in range(3):",
    "match x:",
    "x = (",
    "return y",
    "return x",
]


def test_every_statement_of_a_function_has_its_turn():
    statements = mutants.statements(SOURCE, "Thing.method")
    assert [statement.line for statement in statements] == LINES
    assert statements[7].code.count("\n") == 2  # all of a long statement, of a compound one the head
    assert statements[5].code.strip() == "for i in range(3):"


@pytest.mark.parametrize(
    ("line", "instead", "old", "new"),
    [
        ("@decorated", "", "    @decorated\n", ""),
        ("if x < 1:", mutants.ALWAYS, "if x < 1:", "if True:"),
        ("elif x < 2:  # a comment", "elif x <= 2:", "elif x < 2:", "elif x <= 2:"),
        ("elif x < 2:  # a comment", "", "elif x < 2:\n            x += 1", "else:\n            pass"),
        ("x += 1", "", "x += 1", "pass"),
        ("x += 1", "x += 2", "x += 1", "x += 2"),
        ("return y", "", "return y", "pass"),
    ],
)
def test_one_change_changes_one_statement(line, instead, old, new):
    right = ast.unparse(mutants.without_docstrings(ast.parse(SOURCE)))
    assert right.count(old) == 1
    assert mutants.mutated(SOURCE, "Thing.method", LINES.index(line), instead) == right.replace(old, new)


def test_what_nobody_notices_is_said():
    """A change that no test noticed, and code that has changed since. (That neither is so: make check.)"""
    sections, seen = explain.all_sections(), explain.read_seen()
    (section,) = (section for section in sections if section.function == "Scheduler.lr")
    changes = seen[explain.name(section)]["changes"]
    noticed, changes[0][2] = changes[0][2], ""
    with pytest.raises(UserError, match=r"Scheduler.lr: `return self.shape.*`, left out: no test goes red"):
        explain.check(sections, seen)
    changes[0][2] = noticed
    seen[explain.name(section)]["code"] = "of another function"
    with pytest.raises(
        UserError, match=r"Scheduler.lr has changed: python -m course.explain minitrain/minitorch/sched"
    ):
        explain.check(sections, seen)
