"""What breaks without each line: ``make explain``.

Each statement of loop, state, checkpoint, batches, optimizer and schedule is left out, each ``if`` made to hold
always, and each wrong version that ``course/reasons.md`` names is put in. For every such change the tests that matter
run until the first goes red, and the short training of ``course/short_run.py`` is compared with that of the right code.
What was seen goes to ``course/seen.json``, from which ``course/chapter.py`` writes the chapter of the loop. Of the
engine (tape, operations, arithmetic, model) every statement is left out too, but the tests alone are asked.

Ends with 1 when a change is noticed by no test and no argument in ``course/reasons.md`` says why none can.
"""

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from course import mutants
from course.reasons import ROOT, Section, function_section, read_reasons
from minitrain.base import UserError, files, formats, process
from minitrain.loop import n_cores

SEEN = ROOT / "course" / "seen.json"
PYTEST = ("-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-o", "faulthandler_timeout=60")
NEVER_ENDS = ("-o", "faulthandler_exit_on_timeout=true")  # a test that takes a minute; the right code needs seconds
SHORT_RUN = ("-m", "course.short_run", "short-run")
LIMIT = 40  # seconds for the short run; the right code needs four

# The tests of each file, the quickest and most telling first.
EXPLAINED = {
    "minitrain/loop.py": ("loop", "reference", "continuing", "mistakes"),
    "minitrain/training/state.py": ("optim", "loop", "reference"),
    "minitrain/training/checkpoint.py": ("checkpoint", "loop", "continuing"),
    "minitrain/training/checks.py": ("loop", "mistakes"),
    "minitrain/dataset/batches.py": ("batches", "loop", "reference"),
    "minitrain/minitorch/optim.py": ("optim", "reference", "loop"),
    "minitrain/minitorch/schedule.py": ("optim", "reference", "loop"),
}
ENGINE = {
    "minitrain/minitorch/tape.py": ("tape", "ops", "model"),
    "minitrain/minitorch/ops.py": ("ops", "arithmetic", "plain", "model", "reference", "loop"),
    "minitrain/minitorch/sequence_ops.py": ("ops", "arithmetic", "plain", "model", "reference", "loop"),
    "minitrain/minitorch/nn.py": ("model", "plain", "reference", "loop"),
    "minitrain/minitorch/arithmetic.py": ("arithmetic", "ops", "plain", "model"),
    "minitrain/model.py": ("model", "plain", "reference", "loop"),
}


def all_sections() -> list[Section]:
    """Those of ``course/reasons.md``, and every other function of the files above."""
    sections = read_reasons()
    known = {(section.file, section.function) for section in sections}
    for file in EXPLAINED | ENGINE:
        for function in mutants.functions(ast.parse((ROOT / file).read_text())):
            if (file, function) not in known:
                sections.append(function_section(file, function))
    return sections


def run(folder: Path, limit: float, *arguments: str) -> tuple[int | None, str, str]:
    """Run Python there: exit status (None: it did not end), what it printed, the last line of its errors."""
    command = [sys.executable, *arguments]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired as error:
        return None, (error.stdout or b"").decode(), ""
    return result.returncode, result.stdout, (result.stderr.strip().splitlines() or [""])[-1]


def first_red(folder: Path, tests: Sequence[str]) -> str:
    """The first test that goes red; empty when none does."""
    status, printed, _ = run(folder, 900, *PYTEST, *NEVER_ENDS, *(f"tests/test_{name}.py" for name in tests))
    found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", printed, re.MULTILINE)
    if status == 0:
        return ""
    return found[1] if found else "every test" if status == 4 else "a test that never ends"


def difference(right: str, status: int | None, printed: str, error: str) -> str:
    """What a short run shows that the right one does not, in words; empty when it shows the same."""
    expected, got = right.splitlines(), printed.splitlines()
    steps = [line for line in got if "step" in line]
    when = f"after `{steps[-1]}`" if steps else "before the first step"
    if status is None:
        return "goes on after the last step" if len(got) > len(expected) else f"never ends; nothing comes {when}"
    if status:
        return f"stops {when}: `{error:.120}`"
    pairs = [(was, now) for was, now in zip(expected, got, strict=False) if was != now]
    last = [pair for pair in pairs[1:] if pair[0].startswith("step 60: validation")]
    words = [f"`{now}` instead of `{was.split(': ')[-1]}`" for was, now in pairs[:1] + last]
    if len(got) != len(expected):
        words.append(f"{len(got)} lines instead of {len(expected)}")
    return ", then ".join(words)


def copy_project(target: Path) -> Path:
    """All that tests and short run need, at ``target``."""
    ignore = shutil.ignore_patterns(
        ".git", ".dvc", ".venv*", ".*_cache", "__pycache__", "mlruns", "checkpoints", "models"
    )
    return Path(shutil.copytree(ROOT, target, ignore=ignore))


def observe(sections: Sequence[Section]) -> dict[str, Any]:
    """What was seen of every change of these functions: by function its digest, and a list of line, change, first red
    test and what the short run shows.
    """
    changes = [
        (section, index, change)
        for section in sections
        for index, line in enumerate(section.lines)
        for change in line.changes
    ]
    copies: SimpleQueue[Path] = SimpleQueue()

    def look(broken: tuple[Section, int, str]) -> list[str]:
        section, index, change = broken
        folder = copies.get()
        path, source = folder / section.file, (ROOT / section.file).read_text()
        path.write_text(mutants.mutated(source, section.function, index, change))
        shown = ""
        if section.file in EXPLAINED:
            shutil.rmtree(folder / "short-run", ignore_errors=True)
            shown = difference(right, *run(folder, LIMIT, *SHORT_RUN))
        test = first_red(folder, (EXPLAINED | ENGINE)[section.file])
        path.write_text(source)
        copies.put(folder)
        return [section.lines[index].statement.line, change, test, shown]

    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(n_cores()) as pool:
        for number in range(n_cores()):
            copies.put(folder := copy_project(Path(temporary) / str(number)))
            run(folder, LIMIT, "-m", "stages.shard_to_batches")
        status, right, error = run(folder, LIMIT, *SHORT_RUN)
        if status != 0:
            raise UserError(f"the short run of the right code failed: {error}")
        for file in {section.file for section in sections}:
            if red := first_red(folder, (EXPLAINED | ENGINE)[file]):
                raise UserError(f"{red} goes red with the right code of {file}")
        results = list(tqdm(pool.map(look, changes), total=len(changes), desc="changes", unit="change"))

    seen: dict[str, Any] = {}
    for (section, _, _), result in zip(changes, results, strict=True):
        of_function = seen.setdefault(name(section), {"code": section.digest, "changes": []})
        of_function["changes"].append(result)
    return seen


def read_seen() -> dict[str, Any]:
    """What was seen before, as ``observe`` gives it."""
    seen: dict[str, Any] = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    return seen


def name(section: Section) -> str:
    return f"{section.file} {section.function}"


def check(sections: Sequence[Section], seen: dict[str, Any]) -> None:
    """UserError unless every change of the code as it is was tried, and a test noticed it or an argument says why none
    can.
    """
    wrong = []
    for section in sections:
        recorded = seen.get(name(section), {"code": "", "changes": []})
        tried = [(line, change) for line in section.lines for change in line.changes]
        lines = [[line.statement.line, change] for line, change in tried]
        if section.lines and (recorded["code"], [row[:2] for row in recorded["changes"]]) != (section.digest, lines):
            raise UserError(f"{name(section)} has changed: python -m course.explain {section.file}")
        for (line, change), (_, _, test, _) in zip(tried, recorded["changes"], strict=True):
            what = f"{name(section)}: `{line.statement.line}`, {f'replaced by `{change}`' if change else 'left out'}"
            if not test and change not in line.same:
                wrong.append(f"{what}: no test goes red")
            if test and change in line.same:
                wrong.append(f"{what}: {test} goes red, although reasons.md says that none can")
    if wrong:
        raise UserError("\n".join(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m course.explain")
    parser.add_argument("files", nargs="*", help="only these, the rest as seen before (default: all)")
    chosen = parser.parse_args().files or [*EXPLAINED, *ENGINE]
    sections = all_sections()
    for file in chosen:
        print(file, flush=True)
        seen = read_seen() | observe([section for section in sections if section.file == file])
        known = [name(section) for section in sections if section.lines]
        files.write_bytes(SEEN, formats.json_bytes({key: seen[key] for key in known if key in seen}))
    check(sections, read_seen())


if __name__ == "__main__":
    process.run_command(main)
