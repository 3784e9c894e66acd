"""The page of ``dvc plots show`` and that of ``dvc plots diff``, in a browser without a network: every plot is drawn.

In a clone of the commit, with a short run beside it for the comparison. Chromium opens the pages with no name resolved;
then the page itself is asked how many marks each plot has, and which addresses it names. Negative control: DVC's own
page, which loads Vega from a public address, is found to draw nothing.

With ``--screens`` also pictures of both pages and of a terminal, into docs/screens.
"""

import html
import io
import json
import os
import pty
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from minitrain.base import UserError, formats, process
from proofs import program
from proofs.project import DVC, ROOT, must_run, set_params

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OFFLINE = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")
OTHER_RUN = {"train.steps": 200}  # as in the README
SCREENS = ROOT / "docs/screens"
# Put at the end of a page: once all is drawn, the page is what was found, as JSON.
LOOK = """
<script>
  const marks = "svg .role-mark > path, svg .role-mark > text, img";
  const drawn = mark => mark.tagName !== "IMG" || mark.naturalWidth > 0;
  setTimeout(() => {
    const plots = [...document.querySelectorAll("div[id]")].filter(div => div.id !== "others");
    const found = {
      marks: Object.fromEntries(plots.map(div => [div.id, [...div.querySelectorAll(marks)].filter(drawn).length])),
      addresses: [...document.querySelectorAll("[src], link")].map(element => element.src || element.href),
    };
    document.documentElement.textContent = "FOUND" + JSON.stringify(found) + "END";
  }, 10000);
</script>
"""


def look(page: Path) -> tuple[dict[str, int], list[str]]:
    """How many marks or pictures each plot of a page shows without a network, and the addresses outside of the page."""
    copy = page.with_name("look.html")
    copy.write_text(page.read_text() + LOOK)
    answer = browse(copy, "--virtual-time-budget=30000", "--dump-dom")
    found: dict[str, Any] = json.loads(html.unescape(answer.partition("FOUND")[2].partition("END")[0] or "{}"))
    addresses = [address for address in found.get("addresses", []) if not address.startswith(("file:", "data:"))]
    return found.get("marks", {}), addresses


def browse(page: Path, *options: str) -> str:
    """What Chromium prints about a page."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError("this proof needs Chromium: on Debian or Ubuntu, apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        return must_run(page.parent, browser, *OFFLINE, f"--user-data-dir={profile}", *options, page.as_uri())


def expected_plots(project: Path) -> set[str]:
    """The ids of all plots and pictures of dvc.yaml."""
    pipeline = formats.read_yaml(project / "dvc.yaml")
    names = [name for plot in pipeline["plots"] for name in plot]
    names += [name for stage in pipeline["stages"].values() for picture in stage.get("plots", []) for name in picture]
    return {re.sub(r"[ /.]", "_", name) for name in names}


def check(page: Path, expected: set[str]) -> str:
    """What a page shows, in words. UserError when a plot is missing, empty, or asks for anything outside."""
    marks, addresses = look(page)
    if missing := sorted(name for name in expected if not marks.get(name)):
        raise UserError(f"{page}: expected marks in every plot, got none in {', '.join(missing)}")
    if addresses:
        raise UserError(f"{page}: expected no address outside, got {', '.join(addresses)}")
    return f"{len(expected)} plots and pictures, {sum(marks.values()):,} marks, nothing from outside"


def screens(show: Path, diff: Path) -> None:
    """Pictures of what the pages show best."""
    SCREENS.mkdir(exist_ok=True)
    for page, section, size in ((show, "what-it-learned", "1160,1200"), (diff, "training", "1160,640")):
        part = page.with_name("part.html")
        only = f"<style>section:not(#{section}), h1, h1 + p {{ display: none !important; }}</style>"
        part.write_text(page.read_text() + only)
        target = SCREENS / f"{page.parent.name}.png"
        browse(
            part, "--virtual-time-budget=30000", "--hide-scrollbars", f"--window-size={size}", f"--screenshot={target}"
        )


def terminal() -> None:
    """A picture of what ``make repro`` prints where all is done already, in colour, as on a terminal of 80 columns."""
    printed: list[bytes] = []

    def read(descriptor: int) -> bytes:
        printed.append(os.read(descriptor, 1024))
        return printed[-1]

    pty.spawn(["make", "repro"], read)
    console = Console(record=True, width=82, file=io.StringIO())
    console.print(Text.from_ansi(b"".join(printed).decode().replace("\r", "")))
    with tempfile.TemporaryDirectory() as temporary:
        page = Path(temporary) / "terminal.html"
        page.write_text(console.export_html(theme=MONOKAI, inline_styles=True))
        browse(page, "--hide-scrollbars", "--window-size=800,690", f"--screenshot={SCREENS / 'terminal.png'}")


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        clone = Path(temporary) / "clone"
        must_run(ROOT, "git", "clone", "-q", str(ROOT), str(clone))
        expected = expected_plots(clone)
        must_run(clone, *DVC, "config", "--unset", "plots.html_template")
        must_run(clone, *DVC, "plots", "show", "-o", "control")
        marks, addresses = look(clone / "control/index.html")
        if not addresses or any(marks[name] for name in expected if not name.endswith("_png")):
            raise UserError("negative control: DVC's own page, without a network, is not found to be empty")
        print("negative control: DVC's own page asks for", ", ".join(addresses), "and draws nothing")
        must_run(clone, "git", "restore", ".dvc/config")
        must_run(clone, *DVC, "plots", "show", "-o", "report")
        print("show:", check(clone / "report/index.html", expected), flush=True)
        set_params(clone, OTHER_RUN)
        stages = program("shard_to_batches", "train", "fp16_drift", "baseline_compare")
        must_run(clone, sys.executable, "-c", stages)
        must_run(clone, *DVC, "plots", "diff", "-o", "diff")
        print("diff:", check(clone / "diff/index.html", expected))
        if "--screens" in sys.argv[1:]:
            screens(clone / "report/index.html", clone / "diff/index.html")
            terminal()


if __name__ == "__main__":
    process.run_command(main)
