"""Puts ten classic bugs into the training loop, one after the other, and shows what they do: ``make lessons``.

For each bug of ``course/ten_bugs.py`` a copy of the project gets the wrong lines and trains for 300 steps
(``course/bug_run.py``). The curve is drawn beside that of the right code, and the test that is said to catch the bug
must be red in such a copy, and green in one without it. Writes ``docs/course/bugs.md`` and its pictures; takes some
minutes.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from course.bug_run import Curve
from course.explain import copy_project
from course.ten_bugs import BUGS, Bug
from minitrain.base import UserError, files
from minitrain.base.process import run_command
from minitrain.figures import BLUE, RED, in_our_style
from proofs.project import ROOT, must_run

PAGE = ROOT / "docs/course/bugs.md"
PICTURES = ROOT / "docs/course/bugs"
INTRODUCTION = """\
# Ten bugs

Each of these bugs is in many training loops; most of them raise no error. Here each is put into the real code: in
the diff, `-` is a line of this project, `+` is the bug, and a line without a sign shows the place. Then the real
model trains on the real corpus, for 300 steps, stopped and resumed at step 150. Blue is the right run, orange the
one with the bug; where you see only blue, orange lies behind it. The curves are computed with exact arithmetic, so
they are the same on every machine.

`make lessons` (`course/bugs.py`) writes this page and draws its pictures. It also runs the test that is named as
the one that catches the bug: each was green with the right code and red with the bug.

To test yourself first: `python -m course.bugs --exam FOLDER` draws five of the pictures without their titles, in an
order of their own, and puts the answers beside them, in a file.
"""


# --- the bug in the code -----------------------------------------------------------------------------


def broken_files(change: str) -> dict[str, str]:
    """The files that a change names, with the change. UserError unless the code has each right line just once."""
    texts: dict[str, list[str]] = {}
    file, place, indent = "", 0, ""
    for line in change.splitlines():
        mark, code = line[:2], line[2:]
        if mark not in ("- ", "+ ", "  "):
            file = line
            texts[file] = (ROOT / file).read_text().splitlines()
        elif mark == "+ ":
            texts[file].insert(place, indent + code)
            place += 1
        else:
            found = [index for index, other in enumerate(texts[file]) if other.strip() == code]
            if len(found) != 1:
                raise UserError(f"course/ten_bugs.py: expected one line {code!r} in {file}, found {len(found)}.")
            place, indent = found[0], texts[file][found[0]].removesuffix(code)
            if mark == "- ":
                del texts[file][place]
            else:
                place += 1
    return {name: "\n".join(lines) + "\n" for name, lines in texts.items()}


def copy_with(change: str, target: Path) -> Path:
    """A copy of the project at ``target``, with a change; an empty one is the right code."""
    copy_project(target)
    for file, text in broken_files(change).items():
        (target / file).write_text(text)
    return target


# --- what comes of it --------------------------------------------------------------------------------


def curves(project: Path) -> dict[str, Curve]:
    """The curves of a short run there."""
    shown: dict[str, Curve] = json.loads(must_run(project, sys.executable, "-m", "course.bug_run"))
    return shown


def expect_caught(bug: Bug) -> None:
    """UserError unless the test that should catch a bug is green with the right code and red with the bug."""
    with tempfile.TemporaryDirectory() as temporary:
        for change, color, expected in (("", "green", 0), (bug.change, "red", 1)):
            project = copy_with(change, Path(temporary) / color)
            command = [sys.executable, "-m", "pytest", "-q", bug.check]
            status = subprocess.run(command, cwd=project, stdout=subprocess.DEVNULL, check=False).returncode
            if status != expected:
                raise UserError(f"{bug.title}: expected {bug.check} to be {color}, got pytest's exit status {status}.")


# --- the pictures ------------------------------------------------------------------------------------

AXES = {  # what each curve of course/bug_run.py is
    "training loss": "training loss (nats a token)",
    "validation loss": "validation loss (nats a token)",
    "gradient norm": "gradient norm, before clipping",
    "gradient norm after clipping": "gradient norm, after clipping",
    "change by neighbours": "largest change of a token's loss\nby its batch (nats)",
}


@in_our_style
def two_curves(shows: str, scale: str, right: Curve, wrong: Curve, title: str) -> bytes:
    """The right curve and the one with the bug. ``scale``: linear, log, or difference (each less the right one)."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    label = AXES[shows]
    if scale == "difference":
        base = dict(right)
        right, wrong = ([(step, value - base[step]) for step, value in curve] for curve in (right, wrong))
        label = label.replace(" (", ",\ndifference to the right run (")
    marker = "o" if len(right) < 50 else None
    # The right one in front, so that what the bug adds stands out.
    for curve, color, name, order in ((right, BLUE, "right", 3), (wrong, RED, "with the bug", 2)):
        steps, values = zip(*curve, strict=True)
        text = f"{name} (at the end: {values[-1]:.3g})"
        axes.plot(steps, values, color=color, marker=marker, markersize=3, linewidth=1.1, zorder=order, label=text)
    axes.set(title=title, xlabel="training step", ylabel=label)
    if scale == "log":
        axes.set_yscale("log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def pictures(bugs: Sequence[Bug], with_title: bool) -> Iterator[bytes]:
    """Train with each bug, and draw."""
    with tempfile.TemporaryDirectory() as temporary:
        right = curves(copy_with("", Path(temporary) / "right"))
        for bug in bugs:
            wrong = curves(copy_with(bug.change, Path(temporary) / bug.name))
            title = bug.title if with_title else ""
            yield two_curves(bug.curve, bug.scale, right[bug.curve], wrong[bug.curve], title)


def picture_path(bug: Bug) -> Path:
    return PICTURES / f"{BUGS.index(bug) + 1}-{bug.name}.png"


# --- the page ----------------------------------------------------------------------------------------


def page() -> str:
    """The ten lessons in Markdown."""
    text = INTRODUCTION
    for number, bug in enumerate(BUGS, 1):
        file, test = bug.check.split("::")
        text += f"""
## {number}. {bug.title}

{bug.what}

```diff
{bug.change}```

![{bug.curve}, right and with the bug](bugs/{picture_path(bug).name})

**How to recognise it**

{bug.recognise}

**What catches it here**: `{test}`
in [`{file}`](../../{file})
"""
    return text


def check() -> None:
    """UserError when the page or a picture is missing or not of today's bugs, or a bug not of today's code."""
    for bug in BUGS:
        broken_files(bug.change)
    missing = [path for path in (PAGE, *map(picture_path, BUGS)) if not path.exists()]
    if missing or PAGE.read_text() != page():
        raise UserError("docs/course/bugs.md: expected what course/bugs.py writes, got another page. Run: make lessons")


# --- the command -------------------------------------------------------------------------------------


def write() -> None:
    """Make the page and all pictures, and prove that each bug is caught."""
    for bug, picture in zip(BUGS, pictures(BUGS, with_title=True), strict=True):
        expect_caught(bug)
        files.write_bytes(picture_path(bug), picture)
        print(f"{bug.title}: drawn, and caught by {bug.check}")
    files.write_bytes(PAGE, page().encode())


def write_exam(folder: Path) -> None:
    """Draw five pictures without their titles, and their titles in a file of its own."""
    chosen = [BUGS[index] for index in np.argsort(np.random.PCG64(18).random_raw(len(BUGS)))[:5]]
    for letter, picture in zip("ABCDE", pictures(chosen, with_title=False), strict=True):
        files.write_bytes(folder / f"{letter}.png", picture)
    answers = [f"{letter}: {bug.title}\n" for letter, bug in zip("ABCDE", chosen, strict=True)]
    files.write_bytes(folder / "answers.txt", "".join(answers).encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.bugs", description="Write docs/course/bugs.md.")
    parser.add_argument("--check", action="store_true", help="only compare the page with the bugs and the code")
    parser.add_argument("--exam", type=Path, metavar="FOLDER", help="only draw five pictures there, for you to guess")
    options = parser.parse_args()
    if options.check:
        check()
    elif options.exam:
        write_exam(options.exam)
    else:
        write()


if __name__ == "__main__":
    run_command(main)
