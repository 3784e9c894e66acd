"""Stage shard-to-batches: from the corpus to tokenised, split, checked stores.

Reads ``data/shards/``, ``data/MANIFEST.json``. Leaves ``data/batches/`` and ``plots/shard-to-batches/``.
"""

import json
from pathlib import Path

from minitrain.base import files, layout, process
from minitrain.corpus.shards import read_corpus
from minitrain.dataset.build import build_dataset
from minitrain.params import read_params


def main() -> None:
    params = read_params()
    shards, manifest = Path(params.data.shards), Path(params.data.manifest)
    content, plots = build_dataset(params, read_corpus(shards, manifest), files.sha256_file(manifest))
    files.write_all(layout.BATCHES, content)
    files.write_all(layout.PLOTS / "shard-to-batches", plots)
    stats = json.loads(content["summary.json"])["splits"]
    print(", ".join(f"{split}: {of['sequences']} sequences of {of['targets']} targets" for split, of in stats.items()))


if __name__ == "__main__":
    process.run_command(main)
