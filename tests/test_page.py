"""The page of ``dvc plots``: what is committed is what is made, and each plot of dvc.yaml has its place in the story."""

import json
import re

import pytest
import yaml

from page import build


@pytest.fixture(scope="module")
def plots(root):
    """Each plot of dvc.yaml: its settings by its id in the page."""
    plots = yaml.safe_load((root / "dvc.yaml").read_text())["plots"]
    return {name.replace(" ", "_"): settings for plot in plots for name, settings in plot.items()}


def test_the_committed_page_is_made_of_the_story_and_the_locked_vega():
    assert build.PAGE.read_bytes() == build.build(), "make it again with: python -m page.build"


def test_the_page_holds_all_that_it_runs_and_dvc_puts_its_plots_into_it():
    page = build.PAGE.read_text()
    assert page.count("{plot_divs}") == 1
    assert "{scripts}" not in page  # those that DVC would load from the network
    assert not re.findall(r"\b(?:src|href)=", (build.HERE / "story.html").read_text())


def test_each_plot_has_a_place_in_the_story_and_a_template(root, plots):
    story = (build.HERE / "story.html").read_text()
    places = [plot for names in re.findall(r'data-plots="([^"]+)"', story) for plot in names.split()]
    assert sorted(place for place in places if not place.startswith("plots_")) == sorted(plots)
    templates = {path.stem for path in (root / ".dvc/plots").glob("*.json")}
    used = {settings["template"] for settings in plots.values()}
    assert used == {*templates, "simple"}  # which comes with DVC
    for template in templates:
        values = json.loads((root / ".dvc/plots" / f"{template}.json").read_text())["data"]["values"]
        assert values == "<DVC_METRIC_DATA>"
