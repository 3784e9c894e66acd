"""The documents against the project: the picture of docs/architecture.md, the paths and commands that they name, the plots' page."""

import re
from pathlib import Path

import pytest
import yaml
from closure import imported_modules

from minitrain.base import formats, layout
from minitrain.gate import checks
from minitrain.params import read_params
from page import build

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "data/README.md"]
DOCUMENTS += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
# What a run leaves, and what the reader or DVC makes: not in a fresh clone.
LEFT_BY_RUNS = (
    "short-run",
    ".dvc/cache",
    "models",
    "checkpoints",
    "manifest.json",  # there, beside the checkpoints of a run
    "data/batches",
    ".venv",
    ".dvc/tmp/rwlock",
    "mlflow.db",
)
YOURS = (
    *("data/my-shards", "data/MY-MANIFEST.json", "data/german-italian", "data/GERMAN-ITALIAN.json"),
    *("out", "../your-project"),
)


NUMBER_WORDS = {17: "seventeen", 18: "eighteen", 19: "nineteen", 20: "twenty"}


@pytest.fixture(autouse=True)
def in_root(root, monkeypatch):
    monkeypatch.chdir(root)


# --- the picture ---------------------------------------------------------------------------------------


def read_picture() -> dict[str, int]:
    """The floor of each room, counted from the top."""
    picture = Path("docs/architecture.md").read_text().split("```")[1]
    floors = re.findall(r"^(\S.*?)(?: {2,}|$)", picture, re.MULTILINE)[1:]  # without the headings of the columns
    return {room: number for number, rooms in enumerate(floors) for room in rooms.split(", ")}


def test_the_picture_shows_every_room_and_imports_only_go_down_its_floors():
    floor_of = read_picture()
    paths = [path for path in sorted(Path("minitrain").rglob("*.py")) if path != Path("minitrain/__init__.py")]
    assert set(floor_of) == {path.parts[1].removesuffix(".py") for path in paths}
    for path in paths:
        for parts in (module.split(".") for module in imported_modules(path)):
            if parts[0] == "minitrain" and len(parts) > 1:
                assert floor_of[path.parts[1].removesuffix(".py")] <= floor_of[parts[1]], f"{path} imports {parts[1]}"


# --- the README's figures -------------------------------------------------------------------------------


def test_the_figures_of_the_readme_are_those_of_the_files():
    of_test = formats.read_json(Path("plots/baseline-compare/scores.json"))["test"]
    counts = formats.read_json(Path("plots/shard-to-batches/counts.json"))
    text = " ".join(Path("README.md").read_text().split())
    for figure in (
        f"small GPT ({checks.LOCKED_PARAMETERS:,} parameters)",
        f"{read_params().train.steps:,} steps of AdamW on {counts['train']['sequences']} sequences",
        f"perplexity {of_test['model_ppl']:.4f} on test, {of_test['ratio_to_best_baseline']:.3f} of the best n-gram's",
        f"the gate's {len(checks.CHECKS)} checks",
        f"gate**, {NUMBER_WORDS[len(checks.CHECKS)]} checks",
    ):
        assert figure in text


def test_the_speeds_of_the_readme_are_those_of_the_table():
    speeds = re.findall(r"^- .*: ([\d.]+) times \(", Path("benchmarks/speed.md").read_text(), re.MULTILINE)
    against_padded, against_packed, exact, _, cost = speeds[:5]
    text = " ".join(Path("README.md").read_text().split())
    assert f"plain NumPy is {against_padded} times as fast" in text
    assert f"{against_packed} times as fast as a PyTorch that leaves the padding out" in text
    assert f"takes {cost} times as long as native: {exact} of PyTorch's speed" in text


# --- what the documents name ---------------------------------------------------------------------------


def code_in(document: str) -> str:
    """All that stands between backticks, words and blocks, one a line."""
    pieces = re.findall("```(.*?)```|`([^`]+)`", Path(document).read_text(), re.DOTALL)
    return "\n".join(block or word for block, word in pieces)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_and_every_path_leads_to_a_file_or_is_left_by_a_run(document):
    for target in re.findall(r"\]\(([^)]+)\)", Path(document).read_text()):
        assert target.startswith(("https://", "#")) or (Path(document).parent / target).exists(), target
    words = [word.strip(",;:").split("::")[0] for word in code_in(document).split()]
    paths = [word for word in words if re.fullmatch(r"[\w./-]*(\w/[\w./-]*|\.(py|md|yaml|json|lock|csv|db))", word)]
    assert paths
    for path in paths:
        made = any(Path(path).is_relative_to(folder) for folder in (*LEFT_BY_RUNS, *YOURS))
        assert made or Path(path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_has_a_target_a_stage_or_a_module(document):
    code = code_in(document)
    targets = re.findall(r"^([a-z -]+):", Path("Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(" ".join(targets).split())
    assert set(re.findall(r"\bdvc repro ([a-z][a-z0-9-]+)", code)) <= {*layout.STAGES, "verify"}
    for module in re.findall(r"python -m ([\w.]+)", code):
        path = Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


# --- the page of ``dvc plots`` -----------------------------------------------------------------------------


def test_the_committed_page_is_made_of_the_story_and_the_locked_vega():
    assert build.PAGE.read_bytes() == build.build(), "make it again with: python -m page.build"


def test_each_plot_has_a_place_in_the_story_and_a_template():
    plots = {
        name.replace(" ", "_"): settings
        for plot in yaml.safe_load(Path("dvc.yaml").read_text())["plots"]
        for name, settings in plot.items()
    }
    story = (build.HERE / "story.html").read_text()
    places = [plot for names in re.findall(r'data-plots="([^"]+)"', story) for plot in names.split()]
    assert sorted(place for place in places if not place.startswith("plots_")) == sorted(plots)
    used = {settings["template"] for settings in plots.values()}
    assert used == {"simple", *(path.stem for path in Path(".dvc/plots").glob("*.json"))}  # simple: DVC's own
