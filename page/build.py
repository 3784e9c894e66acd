"""Makes the page of `dvc plots`: our words (story.html) with Vega inside, so that it needs no network."""

from pathlib import Path

import vl_convert

from minitrain.base import files

HERE = Path(__file__).parent
PAGE = HERE.parent / ".dvc/plots/page.html"  # named in .dvc/config


def build() -> bytes:
    """The HTML in which DVC replaces ``{plot_divs}``."""
    licences = (HERE / "LICENSES.txt").read_text()
    vega = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return (HERE / "story.html").read_text().replace("{vega}", f"/*\n{licences}*/\n{vega}").encode()


if __name__ == "__main__":
    files.write_bytes(PAGE, build())
