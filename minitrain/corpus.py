"""The corpus on disk: the row schema, the shards, and the manifest that pins them.

``python -m minitrain.corpus`` turns ``data/verbs.yaml`` into ``data/shards/`` and
``data/MANIFEST.json``, byte for byte the same each time. ``python -m minitrain.corpus --pin SHARDS
MANIFEST`` writes the manifest of shards that you made yourself. ``read_corpus`` is how the pipeline
reads either; it believes nothing that it has not checked.
"""

import argparse
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from minitrain import conjugation, files
from minitrain.conjugation import MISTAKES, PERSONS, TENSES, Verb
from minitrain.errors import UserError, run_command

SCHEMA_VERSION = 1
SEED = 18  # decides which shard a row stands in
N_SHARDS = 4
REGULARITIES = ("regular", "irregular")
LABELS = ("correct", "mis_conjugated")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a shard. A cell is (verb_lemma, tense, person); an infinitive has no person."""

    id: str
    text: str
    spanish: str
    verb_lemma: str
    spanish_lemma: str
    tense: str
    person: str | None
    english_regularity: str
    spanish_regularity: str
    label: str
    mis_conjugation_type: str | None
    correct_form: str | None
    seed: int
    fingerprint: str

    @property
    def cell(self) -> str:
        return cell_name(self.verb_lemma, self.tense, self.person)


KEYS = tuple(Row.__dataclass_fields__)
NULLABLE = ("person", "mis_conjugation_type", "correct_form")
CHOICES = {
    "tense": TENSES,
    "person": (*PERSONS, None),
    "english_regularity": REGULARITIES,
    "spanish_regularity": REGULARITIES,
    "label": LABELS,
    "mis_conjugation_type": (*MISTAKES, None),
}


def cell_name(verb_lemma: str, tense: str, person: str | None) -> str:
    """The name of a cell, such as ``work.past_simple.1sg`` or ``work.infinitive``."""
    return ".".join(part for part in (verb_lemma, tense, person) if part is not None)


def fingerprint(text: str) -> str:
    """sha256 of the text after NFC, strip and lower-case (but for the word ``I``)."""
    words = unicodedata.normalize("NFC", text).strip().split(" ")
    return hashlib.sha256(" ".join(w if w == "I" else w.lower() for w in words).encode()).hexdigest()


# --- reading -------------------------------------------------------------------------------------


def parse_row(line: str, where: str) -> Row:
    """One row from one line of a shard, checked against the schema; UserError begins with ``where``."""
    try:
        value = json.loads(line, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: expected a JSON object, got broken JSON: {error}.") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(value).__name__}.")
    for key in KEYS:
        if key not in value:
            raise UserError(f"{where}: key '{key}' is missing. A row has the keys {', '.join(KEYS)}.")
    for key, content in value.items():
        if key not in KEYS:
            raise UserError(f"{where}: unknown key '{key}'. A row has the keys {', '.join(KEYS)}.")
        expected: type = int if key == "seed" else str
        if type(content) is not expected and not (content is None and key in NULLABLE):
            raise UserError(
                f"{where}: key '{key}': expected {expected.__name__}, got {type(content).__name__}: {content!r:.60}."
            )
        if isinstance(content, str) and not (content and content.isprintable()):
            raise UserError(f"{where}: key '{key}': expected one line of printable text, got {content!r:.60}.")
        if key in CHOICES and content not in CHOICES[key]:
            raise UserError(
                f"{where}: key '{key}': expected one of {', '.join(map(str, CHOICES[key]))}, got {content!r:.60}."
            )
    row = Row(**value)
    if (row.tense == "infinitive") != (row.person is None):
        raise UserError(
            f"{where}: key 'person': expected null for an infinitive and a person otherwise, got {row.person!r} "
            f"for {row.tense}."
        )
    wrong = row.label == "mis_conjugated"
    for key in ("mis_conjugation_type", "correct_form"):
        if (getattr(row, key) is not None) != wrong:
            raise UserError(
                f"{where}: key '{key}': expected {'text' if wrong else 'null'} for label {row.label}, got "
                f"{getattr(row, key)!r:.60}."
            )
    if row.fingerprint != fingerprint(row.text):
        raise UserError(
            f"{where}: key 'fingerprint': expected {fingerprint(row.text)} for the text {row.text!r:.60}, got "
            f"{row.fingerprint!r:.80}."
        )
    return row


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON objects in which no key stands twice; Python would take the last one silently."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def read_shards(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """All rows of a folder's ``*.jsonl``, in order, and the manifest that describes them; see ``check_shards``."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of shards, found none. See data.shards in params.yaml.")
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(
            f"{folder}: expected at least one shard (*.jsonl), found none. Make them with: python -m minitrain.corpus"
        )
    return check_shards({path: files.read_text(path) for path in paths})


def check_shards(texts: Mapping[Path, str]) -> tuple[list[Row], dict[str, Any]]:
    """All rows of some shards, in order, and the manifest that describes them.

    Raises UserError for a row against the schema, a duplicate id, text or cell, and a wrong row that
    contradicts the right one of its cell.
    """
    rows: list[Row] = []
    shards = []
    place: dict[tuple[str, str], str] = {}  # what must be unique -> where it was seen first
    for path, text in texts.items():
        lines = text.removesuffix("\n").split("\n") if text else []
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            row = parse_row(line, where)
            unique = [("id", row.id), ("fingerprint", row.fingerprint)]
            if row.label == "correct":
                unique.append(("cell", row.cell))
            for kind, key in unique:
                first = place.setdefault((kind, key), where)
                if first != where:
                    raise UserError(
                        f"{where}: duplicate {kind}: {row.id} ({row.text!r}) repeats {first}. Remove one of the two."
                    )
            rows.append(row)
        shards.append({"file": path.name, "rows": len(lines), "sha256": files.sha256(text.encode())})
    right = {row.cell: row for row in rows if row.label == "correct"}
    for row in rows:
        if row.label == "mis_conjugated" and row.cell in right and row.correct_form != right[row.cell].text:
            raise UserError(
                f"{place['id', row.id]}: key 'correct_form': expected {right[row.cell].text!r} as in "
                f"{place['cell', row.cell]}, got {row.correct_form!r}."
            )
    return rows, {"schema_version": SCHEMA_VERSION, "shards": shards, "counts": _counts(rows)}


def read_corpus(folder: Path, manifest_path: Path) -> list[Row]:
    """All rows of the shards in ``folder``, after checking them against the schema and the manifest."""
    manifest = files.read_json(manifest_path)
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{manifest_path}: key 'schema_version': expected {SCHEMA_VERSION}. Make the manifest with: python "
            "-m minitrain.corpus"
        )
    rows, got = read_shards(folder)
    pin = f"python -m minitrain.corpus --pin {folder} {manifest_path}"
    mend = f"If the change is meant: {pin}; if not: git restore {folder}"
    try:
        pinned = {str(shard["file"]): dict(shard) for shard in manifest["shards"]}
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{manifest_path}: key 'shards': expected a list of shards with 'file'. {mend}") from error
    found = {shard["file"]: shard for shard in got["shards"]}
    for name in sorted(set(pinned) | set(found)):
        if name not in found:
            raise UserError(f"{folder / name}: listed in {manifest_path} but not there. {mend}")
        if name not in pinned:
            raise UserError(f"{folder / name}: not listed in {manifest_path}. {mend}")
        for key in ("rows", "sha256"):
            if pinned[name].get(key) != found[name][key]:
                raise UserError(
                    f"{folder / name}: {key}: expected {pinned[name].get(key)} as in {manifest_path}, got "
                    f"{found[name][key]}. {mend}"
                )
    if manifest.get("counts") != got["counts"]:
        raise UserError(
            f"{manifest_path}: key 'counts': expected what the shards hold ({got['counts']['rows']} rows). {mend}"
        )
    return rows


def _counts(rows: list[Row]) -> dict[str, Any]:
    by_cell: dict[str, dict[str, int]] = {}
    for row in rows:
        by_cell.setdefault(row.cell, dict.fromkeys(LABELS, 0))[row.label] += 1
    return {
        "rows": len(rows),
        "label": Counter(row.label for row in rows),
        "tense": Counter(row.tense for row in rows),
        "mis_conjugation_type": Counter(row.mis_conjugation_type for row in rows if row.mis_conjugation_type),
        "cell": by_cell,
    }


def place_of(folder: Path, row_id: str) -> str:
    """``file:line`` of a row, for messages about what it holds."""
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(files.read_text(path).splitlines(), start=1):
            if json.loads(line)["id"] == row_id:
                return f"{path}:{number}"
    return str(folder)


# --- writing -------------------------------------------------------------------------------------


def read_verbs(path: Path) -> list[Verb]:
    """The conjugation table; UserError names the verb and what is wrong with its entry."""
    try:
        entries = yaml.safe_load(files.read_text(path))["verbs"]
        verbs = [Verb(**entry) for entry in entries]
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected a list 'verbs' of entries as conjugation.Verb has them: {reason}") from error
    for verb in verbs:
        for problem in conjugation.problems(verb):
            raise UserError(f"{path}: verb {verb.english!r:.40}: {problem}")
    return verbs


def make_rows(verbs: list[Verb]) -> list[Row]:
    """Every right and every wrong sentence of the table as rows."""
    rows = []
    for verb in verbs:
        for tense in TENSES:
            for number, person in enumerate((None,) if tense == "infinitive" else PERSONS):
                right = conjugation.english(verb, tense, number)
                name = cell_name(verb.english, tense, person)
                for mistake, text in [(None, right), *conjugation.mistakes(verb, tense, number).items()]:
                    rows.append(
                        Row(
                            id=name if mistake is None else f"{name}.{mistake}",
                            text=text,
                            spanish=conjugation.spanish(verb, tense, number),
                            verb_lemma=verb.english,
                            spanish_lemma=verb.spanish,
                            tense=tense,
                            person=person,
                            english_regularity=verb.english_regularity,
                            spanish_regularity=verb.spanish_regularity,
                            label="correct" if mistake is None else "mis_conjugated",
                            mis_conjugation_type=mistake,
                            correct_form=None if mistake is None else right,
                            seed=SEED,
                            fingerprint=fingerprint(text),
                        )
                    )
    return rows


def shard_texts(rows: list[Row]) -> dict[str, str]:
    """The shards' content by file name: the rows dealt out in an order that only ids and SEED decide."""
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{SEED}:{row.id}".encode()).digest())
    return {
        f"shard-{index:02d}.jsonl": "".join(
            json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ordered[index::N_SHARDS]
        )
        for index in range(N_SHARDS)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m minitrain.corpus", description="Make the corpus from data/verbs.yaml."
    )
    parser.add_argument(
        "--pin",
        nargs=2,
        metavar=("SHARDS", "MANIFEST"),
        type=Path,
        help="write the manifest of shards of your own instead",
    )
    own: list[Path] | None = parser.parse_args().pin
    folder, manifest = own or (Path("data/shards"), Path("data/MANIFEST.json"))
    if own is None:
        texts = shard_texts(make_rows(read_verbs(Path("data/verbs.yaml"))))
        strangers = {path.name for path in folder.glob("*.jsonl")} - texts.keys()
        if strangers:
            raise UserError(f"{folder}: {', '.join(sorted(strangers))}: not made by this command. Move it elsewhere.")
        rows, content = check_shards({folder / name: text for name, text in texts.items()})
        files.write_all(folder, {name: text.encode() for name, text in texts.items()})
    else:
        rows, content = read_shards(folder)
    files.write_json(manifest, content)
    labels = content["counts"]["label"]
    print(
        f"{folder}: {len(content['shards'])} shards, {len(rows)} rows "
        f"({', '.join(f'{n} {label}' for label, n in sorted(labels.items()))}); {manifest}"
    )


if __name__ == "__main__":
    run_command(main)
