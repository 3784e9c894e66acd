"""``python -m minitrain.corpus``: make ``data/shards/`` and ``data/MANIFEST.json`` from ``data/verbs.yaml``, byte for
byte the same each time. With ``--pin SHARDS MANIFEST``: write the manifest of shards of your own.
"""

import argparse
from pathlib import Path

from minitrain.base import UserError, files, formats, layout
from minitrain.base.process import run_command
from minitrain.corpus import generate
from minitrain.corpus.shards import parse_shards, read_shards


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minitrain.corpus", description=__doc__)
    parser.add_argument("--pin", nargs=2, metavar=("SHARDS", "MANIFEST"), type=Path, help="pin shards of your own")
    own: list[Path] | None = parser.parse_args().pin
    folder, manifest_path = own or (Path("data/shards"), Path("data/MANIFEST.json"))
    if own is None:
        contents = generate.shard_files(generate.make_rows(generate.read_verbs(layout.VERBS)))
        if others := {path.name for path in folder.glob("*.jsonl")} - contents.keys():
            raise UserError(f"{folder}: {', '.join(sorted(others))}: not made by this command. Move it elsewhere.")
        parse_shards({folder / name: data.decode() for name, data in contents.items()})  # before anything is written
        files.write_all(folder, contents)
    corpus = read_shards(folder)
    manifest = corpus.manifest()
    files.write_bytes(manifest_path, formats.json_bytes(manifest))
    labels = ", ".join(f"{n} {label}" for label, n in sorted(manifest["counts"]["label"].items()))
    print(f"{folder}: {len(corpus.shards)} shards, {len(corpus.rows)} rows ({labels}); {manifest_path}")


if __name__ == "__main__":
    run_command(main)
