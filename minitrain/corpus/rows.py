"""The schema of a row, which is one line of a shard.

A row has the English and the Spanish sentence of a cell; a cell is a (verb, tense, person), such as
``work.past_simple.1sg``. Mis-conjugated rows have wrong English, and the right English in ``correct_form``.
"""

import hashlib
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from minitrain.base import UserError
from minitrain.params import first_problem


def _printable(text: str) -> str:
    if not (text and text.isprintable()):
        raise ValueError(f"expected one line of printable text, got {text!r:.60}")
    return text


Text = Annotated[str, AfterValidator(_printable)]
Regularity = Literal["regular", "irregular"]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid", strict=True))
class Row:
    """One line of a shard."""

    id: Text
    text: Text
    spanish: Text
    verb_lemma: Text
    spanish_lemma: Text
    tense: Text  # "infinitive", or any name; so the person and the mistake: a corpus of your own has its own
    person: Text | None  # None for an infinitive
    english_regularity: Regularity  # of the verb
    spanish_regularity: Regularity
    label: Literal["correct", "mis_conjugated"]
    mis_conjugation_type: Text | None
    correct_form: Text | None
    seed: int  # decides which shard the row is in
    fingerprint: Text

    def __post_init__(self) -> None:
        is_mistake = self.label == "mis_conjugated"
        text_or_null = f"{'text' if is_mistake else 'null'} for label {self.label}"
        rules = (
            ("person", (self.person is None) == (self.tense == "infinitive"), "null for an infinitive, else a person"),
            ("mis_conjugation_type", (self.mis_conjugation_type is not None) == is_mistake, text_or_null),
            ("correct_form", (self.correct_form is not None) == is_mistake, text_or_null),
            (
                "fingerprint",
                self.fingerprint == fingerprint(self.text),
                f"{fingerprint(self.text)} for the text {self.text!r:.60}",
            ),
        )
        for key, holds, expected in rules:
            if not holds:
                raise ValueError(f"key '{key}': expected {expected}, got {getattr(self, key)!r:.80}")

    @property
    def cell(self) -> str:
        return cell_name(self.verb_lemma, self.tense, self.person)


_parse = TypeAdapter(Row).validate_json


def parse_row(line: str, where: str) -> Row:
    """One row from one line of a shard, checked against the schema; UserError begins with ``where``."""
    try:
        return _parse(line)
    except ValidationError as error:
        key, problem = first_problem(error)
        place = f"{where}: key '{key}'" if key else where
        raise UserError(f"{place}: {problem}.") from error


def cell_name(verb_lemma: str, tense: str, person: str | None) -> str:
    """The name of a cell, such as ``work.past_simple.1sg`` or ``work.infinitive``."""
    return ".".join(part for part in (verb_lemma, tense, person) if part is not None)


def fingerprint(text: str) -> str:
    """sha256 of the text after NFC, strip and lower-case (but for the word ``I``)."""
    words = unicodedata.normalize("NFC", text).strip().split(" ")
    return hashlib.sha256(" ".join(w if w == "I" else w.lower() for w in words).encode()).hexdigest()
