"""The page of ``dvc plots show`` and that of ``dvc plots diff``, in a browser without a network: every plot is drawn.

In a clone of the commit, with a short run beside it for the comparison. Chromium opens the pages with no name resolved;
then the page itself is asked how many marks each plot has, and which addresses it names. Negative control: DVC's own
page, which loads Vega from a public address, is found to draw nothing.
"""

import html
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from minitrain.base import UserError, formats, process
from proofs import program
from proofs.project import DVC, ROOT, must_run, set_params

CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"),
    *("--virtual-time-budget=30000", "--dump-dom"),
)
OTHER_RUN = {"train.steps": 200}  # as in the README
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
    with tempfile.TemporaryDirectory() as profile:
        answer = must_run(page.parent, *CHROMIUM, f"--user-data-dir={profile}", copy.as_uri())
    found: dict[str, Any] = json.loads(html.unescape(answer.partition("FOUND")[2].partition("END")[0] or "{}"))
    addresses = [address for address in found.get("addresses", []) if not address.startswith(("file:", "data:"))]
    return found.get("marks", {}), addresses


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


if __name__ == "__main__":
    process.run_command(main)
