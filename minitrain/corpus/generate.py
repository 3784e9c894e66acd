"""From the conjugation table to rows and shards."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from minitrain.base import UserError, formats
from minitrain.corpus import conjugation
from minitrain.corpus.rows import Row, cell_name, fingerprint
from minitrain.params import first_problem

SEED = 18  # decides which shard a row is in
N_SHARDS = 4


def read_verbs(path: Path) -> list[conjugation.Verb]:
    """The conjugation table; UserError says what is wrong with its first bad entry."""
    table = TypeAdapter(Annotated[dict[Literal["verbs"], list[conjugation.Verb]], Field(min_length=1)])
    try:
        return table.validate_python(formats.read_yaml(path))["verbs"]
    except ValidationError as error:
        raise UserError(f"{path}: {': '.join(filter(None, first_problem(error)))}.") from error


def make_rows(verbs: Sequence[conjugation.Verb]) -> list[Row]:
    """Every right and every wrong sentence of the table as rows."""
    cells = [
        (verb, tense, number, person)
        for verb in verbs
        for tense in conjugation.TENSES
        for number, person in enumerate((None,) if tense == "infinitive" else conjugation.PERSONS)
    ]
    rows = []
    for verb, tense, number, person in cells:
        right, name = conjugation.english(verb, tense, number), cell_name(verb.english, tense, person)
        wrong = conjugation.mistakes(verb, tense, number)
        for mistake, text in [(None, right), *wrong.items()]:
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


def shard_files(rows: Sequence[Row]) -> dict[str, bytes]:
    """The shards' content by file name: the rows dealt out in an order that only ids and SEED decide."""
    ordered = sorted(rows, key=lambda row: hashlib.sha256(f"{SEED}:{row.id}".encode()).digest())
    lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ordered]
    return {f"shard-{index:02d}.jsonl": "".join(lines[index::N_SHARDS]).encode() for index in range(N_SHARDS)}
