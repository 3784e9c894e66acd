"""The corpus on disk: the row schema, the shards, and the manifest that pins them.

``python -m minitrain.corpus`` turns ``data/verbs.yaml`` into ``data/shards/`` and
``data/MANIFEST.json``, byte for byte the same each time. ``python -m minitrain.corpus --pin SHARDS
MANIFEST`` writes the manifest of shards that you made yourself. ``read_corpus`` is how the pipeline
reads either; it believes nothing that it has not checked, and takes the rows one by one: a corpus of
millions fits into memory as its correct sentences do.
"""

import argparse
import hashlib
import io
import json
import sys
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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


class Example(NamedTuple):
    """What the pipeline needs of a correct row."""

    cell: str
    verb_lemma: str
    tense: str
    person: str | None
    english_regularity: str
    spanish_regularity: str
    spanish: str
    text: str


KEYS = tuple(Row.__dataclass_fields__)
TYPES: dict[str, type] = {key: int if key == "seed" else str for key in KEYS}
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
        expected = TYPES.get(key)
        if expected is None:
            raise UserError(f"{where}: unknown key '{key}'. A row has the keys {', '.join(KEYS)}.")
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


# A shard's name and how to go through its lines, from the disk or from memory.
Shards = Mapping[Path, Callable[[], Iterable[bytes]]]


@dataclass
class Census:
    """What some shards hold."""

    shards: list[dict[str, Any]]  # file, rows, sha256
    examples: list[Example]  # the correct rows, in order
    labels: Counter[str]
    tenses: Counter[str]
    mistakes: Counter[str]
    by_cell: dict[str, tuple[int, int]]  # how many correct and mis-conjugated rows

    def manifest(self) -> Iterator[str]:
        """The text of the manifest that describes the shards, in pieces: canonical JSON."""
        counts = {
            "rows": self.labels.total(),
            "label": self.labels,
            "tense": self.tenses,
            "mis_conjugation_type": self.mistakes,
            "cell": {},
        }
        whole = files.canonical_json({"schema_version": SCHEMA_VERSION, "shards": self.shards, "counts": counts})
        # The cells one by one: as a tree of objects they would be larger than all the rest of the corpus.
        before, after = whole.split('"cell": {}')
        yield before + '"cell": {'
        quoted = json.JSONEncoder(ensure_ascii=False).encode
        for index, name in enumerate(sorted(self.by_cell)):
            correct, wrong = self.by_cell[name]
            counts_of_cell = f'{{\n        "correct": {correct},\n        "mis_conjugated": {wrong}\n      }}'
            yield f"{',' if index else ''}\n      {quoted(name)}: {counts_of_cell}"
        yield ("\n    }" if self.by_cell else "}") + after


def read_shards(folder: Path) -> Census:
    """What the ``*.jsonl`` of a folder hold, see ``take_census``."""
    return take_census(shards_of(folder))


def shards_of(folder: Path) -> Shards:
    """The ``*.jsonl`` of a folder, by name; UserError when there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of shards, found none. See data.shards in params.yaml.")
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(
            f"{folder}: expected at least one shard (*.jsonl), found none. Make them with: python -m minitrain.corpus"
        )
    return {path: partial(files.read_lines, path) for path in paths}


def read_rows(shards: Shards) -> Iterator[tuple[str, Row]]:
    """Every row with its place, ``file:line``."""
    for path, lines in shards.items():
        for number, line in enumerate(lines(), start=1):
            yield f"{path}:{number}", _row(path, number, line)


def _row(path: Path, number: int, line: bytes) -> Row:
    where = f"{path}:{number}"
    return parse_row(files.decode_line(line, where), where)


def take_census(shards: Shards) -> Census:
    """Go through some shards and check them as a whole.

    Raises UserError for a row against the schema, a duplicate id, text or cell, and a wrong row that
    contradicts the right one of its cell.
    """
    census = Census([], [], Counter(), Counter(), Counter(), {})
    # What must be unique or agree is remembered as 64-bit hashes; whether a match is one is asked afterwards.
    ids, fingerprints = array("q"), array("q")
    right: dict[str, array[int]] = {kind: array("q") for kind in ("cell", "text")}
    wrong: dict[str, array[int]] = {kind: array("q") for kind in ("cell", "text")}
    known_counts: dict[tuple[int, int], tuple[int, int]] = {}  # one tuple for all cells with the same counts
    for path, lines in shards.items():
        digest, number = hashlib.sha256(), 0
        for number, line in enumerate(lines(), start=1):
            digest.update(line)
            row = _row(path, number, line)
            name = row.cell
            correct = row.label == "correct"
            ids.append(hash(row.id))
            fingerprints.append(hash(row.fingerprint))
            form = right if correct else wrong
            form["cell"].append(hash(name))
            form["text"].append(hash(row.text if correct else row.correct_form))
            census.labels[row.label] += 1
            census.tenses[row.tense] += 1
            if row.mis_conjugation_type:
                census.mistakes[row.mis_conjugation_type] += 1
            n_correct, n_wrong = census.by_cell.get(name, (0, 0))
            counts = (n_correct + 1, n_wrong) if correct else (n_correct, n_wrong + 1)
            census.by_cell[name] = known_counts.setdefault(counts, counts)
            if correct:
                census.examples.append(_example(row, name))
        census.shards.append({"file": path.name, "rows": number, "sha256": digest.hexdigest()})
    if any(map(_has_duplicates, (ids, fingerprints, right["cell"]))) or _contradict(right, wrong):
        _name_the_problem(shards)
    return census


def _example(row: Row, name: str) -> Example:
    few = (row.verb_lemma, row.tense, row.english_regularity, row.spanish_regularity)
    verb, tense, english, spanish = map(sys.intern, few)  # one string for all rows that have it
    person = None if row.person is None else sys.intern(row.person)
    return Example(name, verb, tense, person, english, spanish, row.spanish, row.text)


def _has_duplicates(hashes: "array[int]") -> bool:
    return len(np.unique(np.frombuffer(hashes, dtype=np.int64))) < len(hashes)


def _contradict(right: "dict[str, array[int]]", wrong: "dict[str, array[int]]") -> bool:
    """True when a wrong row's correct form is not that of its cell's correct row (cells of which are unique)."""
    cells, texts, wrong_cells, wrong_texts = (
        np.frombuffer(rows[kind], dtype=np.int64) for rows in (right, wrong) for kind in ("cell", "text")
    )
    if len(cells) == 0:
        return False
    order = np.argsort(cells)
    at = np.minimum(np.searchsorted(cells, wrong_cells, sorter=order), len(cells) - 1)
    found = order[at]
    return bool(np.any((cells[found] == wrong_cells) & (texts[found] != wrong_texts)))


def _name_the_problem(shards: Shards) -> None:
    """Go through the shards again, remembering every text, and raise the UserError that says what is wrong where."""
    place: dict[tuple[str, str], str] = {}  # what must be unique -> where it was seen first
    right: dict[str, str] = {}
    for where, row in read_rows(shards):
        unique = [("id", row.id), ("fingerprint", row.fingerprint)]
        if row.label == "correct":
            unique.append(("cell", row.cell))
            right[row.cell] = row.text
        for kind, key in unique:
            first = place.setdefault((kind, key), where)
            if first != where:
                raise UserError(
                    f"{where}: duplicate {kind}: {row.id} ({row.text!r}) repeats {first}. Remove one of the two."
                )
    for where, row in read_rows(shards):
        if row.label == "mis_conjugated" and right.get(row.cell, row.correct_form) != row.correct_form:
            raise UserError(
                f"{where}: key 'correct_form': expected {right[row.cell]!r} as in {place['cell', row.cell]}, got "
                f"{row.correct_form!r}."
            )


def read_corpus(folder: Path, manifest_path: Path) -> Census:
    """What the shards in ``folder`` hold, after checking them against the schema and the manifest."""
    pinned = files.read_bytes(manifest_path)
    census = read_shards(folder)
    at = 0
    for piece in map(str.encode, census.manifest()):
        if not pinned.startswith(piece, at):
            break
        at += len(piece)
    else:
        if at == len(pinned):
            return census
    _compare_with_manifest(census, files.read_json(manifest_path), folder, manifest_path)
    return census


def _compare_with_manifest(census: Census, manifest: Any, folder: Path, manifest_path: Path) -> None:
    """UserError with what differs, unless it is only the spelling of the manifest."""
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"{manifest_path}: key 'schema_version': expected {SCHEMA_VERSION}. Make the manifest with: python "
            "-m minitrain.corpus"
        )
    pin = f"python -m minitrain.corpus --pin {folder} {manifest_path}"
    mend = f"If the change is meant: {pin}; if not: git restore {folder}"
    try:
        pinned = {str(shard["file"]): dict(shard) for shard in manifest["shards"]}
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{manifest_path}: key 'shards': expected a list of shards with 'file'. {mend}") from error
    found = {shard["file"]: shard for shard in census.shards}
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
    if manifest.get("counts") != json.loads("".join(census.manifest()))["counts"]:
        raise UserError(
            f"{manifest_path}: key 'counts': expected what the shards hold ({census.labels.total()} rows). {mend}"
        )


def place_of(folder: Path, cell: str) -> str:
    """``file:line`` of the correct row of a cell, for messages about what it holds."""
    rows = read_rows(shards_of(folder))
    return next((where for where, row in rows if row.label == "correct" and row.cell == cell), str(folder))


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
        contents = {name: text.encode() for name, text in texts.items()}
        census = take_census({folder / name: partial(io.BytesIO, data) for name, data in contents.items()})
        files.write_all(folder, contents)
    else:
        census = read_shards(folder)
    files.write_text(manifest, "".join(census.manifest()))
    print(
        f"{folder}: {len(census.shards)} shards, {census.labels.total()} rows "
        f"({', '.join(f'{n} {label}' for label, n in sorted(census.labels.items()))}); {manifest}"
    )


if __name__ == "__main__":
    run_command(main)
