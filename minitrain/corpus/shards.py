"""The shards on disk and the manifest that pins them: read, and believed only as far as they were checked."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitrain.base import UserError, files, formats
from minitrain.corpus.rows import Row, parse_row

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Corpus:
    """What some shards hold."""

    shards: list[dict[str, Any]]  # file, rows, sha256
    rows: dict[str, Row]  # by place, such as data/shards/shard-00.jsonl:1

    @property
    def correct_rows(self) -> dict[str, Row]:
        """The rows that are trained on, by place."""
        return {place: row for place, row in self.rows.items() if row.label == "correct"}

    def manifest(self) -> dict[str, Any]:
        """The manifest that describes the shards."""
        rows, labels = self.rows.values(), ("correct", "mis_conjugated")
        by_cell: dict[str, dict[str, int]] = {}
        for row in rows:
            by_cell.setdefault(row.cell, dict.fromkeys(labels, 0))[row.label] += 1
        counts = {
            "rows": len(rows),
            "label": Counter(row.label for row in rows),
            "tense": Counter(row.tense for row in rows),
            "mis_conjugation_type": Counter(filter(None, (row.mis_conjugation_type for row in rows))),
            "cell": by_cell,
        }
        return {"schema_version": SCHEMA_VERSION, "shards": self.shards, "counts": counts}


def read_shards(folder: Path) -> Corpus:
    """What the ``*.jsonl`` of a folder hold, see ``parse_shards``; UserError when there is none."""
    paths = sorted(folder.glob("[!.]*.jsonl"))
    if not paths:
        raise UserError(
            f"{folder}: expected a folder with at least one shard (*.jsonl), found none. See data.shards in "
            "params.yaml, or make them with: python -m minitrain.corpus"
        )
    return parse_shards({path: files.read_text(path) for path in paths})


def parse_shards(texts: Mapping[Path, str]) -> Corpus:
    """The rows of some shards, checked one by one and as a whole.

    Raises UserError for a row against the schema, a duplicate id, text or cell, and a mis-conjugated row that
    contradicts the correct one of its cell.
    """
    corpus = Corpus([], {})
    first_place: dict[tuple[str, str], str] = {}
    for path, text in texts.items():
        lines = text.removesuffix("\n").split("\n") if text else []
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            row = parse_row(line, place)
            unique = {"id": row.id, "fingerprint": row.fingerprint}
            if row.label == "correct":
                unique["cell"] = row.cell
            for key in unique.items():
                if (first := first_place.setdefault(key, place)) != place:
                    raise UserError(
                        f"{place}: duplicate {key[0]}: {row.id} ({row.text!r}) repeats {first}. Remove one of the two."
                    )
            corpus.rows[place] = row
        corpus.shards.append({"file": path.name, "rows": len(lines), "sha256": files.sha256(text.encode())})
    correct = {row.cell: row for row in corpus.correct_rows.values()}
    for place, row in corpus.rows.items():
        right = correct.get(row.cell)
        if right is not None and row.label == "mis_conjugated" and row.correct_form != right.text:
            raise UserError(
                f"{place}: key 'correct_form': expected {right.text!r} as in {first_place['cell', row.cell]}, got "
                f"{row.correct_form!r}."
            )
    return corpus


def read_corpus(folder: Path, manifest_path: Path) -> Corpus:
    """What the shards in ``folder`` hold, after checking them against the schema and the manifest."""
    manifest, corpus = formats.read_json(manifest_path), read_shards(folder)
    pin = f"python -m minitrain.corpus --pin {folder} {manifest_path}"
    fix = f"If the change is meant: {pin}; if not: git restore {folder} {manifest_path}"
    try:
        pinned, found = ({str(shard["file"]): shard for shard in of} for of in (manifest["shards"], corpus.shards))
    except (TypeError, KeyError) as error:
        raise UserError(f"{manifest_path}: key 'shards': expected a list of shards with 'file'. {fix}") from error
    for name in sorted(pinned | found):
        expected, got = pinned.get(name, "no such shard"), found.get(name, "none")
        if expected != got:
            raise UserError(f"{folder / name}: expected {expected} as in {manifest_path}, got {got}. {fix}")
    for key, value in corpus.manifest().items():
        if manifest.get(key) != value:
            raise UserError(
                f"{manifest_path}: key '{key}': expected {value!s:.60} as the shards hold, got "
                f"{manifest.get(key)!s:.60}. {fix}"
            )
    return corpus
