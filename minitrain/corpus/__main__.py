"""``python -m minitrain.corpus``: make ``data/shards/`` and ``data/MANIFEST.json`` from ``data/verbs.yaml``, byte for
byte the same each time. With ``--pin SHARDS MANIFEST``: write the manifest of shards of your own.
"""

import argparse
from pathlib import Path

from minitrain.base import files, formats, layout, process
from minitrain.corpus import generate, shards


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minitrain.corpus", description=__doc__)
    parser.add_argument("--pin", nargs=2, metavar=("SHARDS", "MANIFEST"), type=Path, help="pin shards of your own")
    own: list[Path] | None = parser.parse_args().pin
    folder, manifest_path = own or (Path("data/shards"), Path("data/MANIFEST.json"))
    if own is None:
        contents = generate.shard_files(generate.make_rows(generate.read_verbs(layout.VERBS)))
        corpus = shards.parse_shards({folder / name: data.decode() for name, data in contents.items()})
        files.write_all(folder, contents)
    else:
        corpus = shards.read_shards(folder)
    manifest = corpus.manifest()
    files.write_bytes(manifest_path, formats.json_bytes(manifest))
    labels = ", ".join(f"{n} {label}" for label, n in sorted(manifest["counts"]["label"].items()))
    print(f"{folder}: {len(corpus.shards)} shards, {len(corpus.rows)} rows ({labels}); {manifest_path}")


if __name__ == "__main__":
    process.run_command(main)
