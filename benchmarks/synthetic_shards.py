"""Shards of any size: invented regular verbs, conjugated by the project's own rules, in the corpus's own schema.

    python -m benchmarks.synthetic_shards ROWS FOLDER

leaves ``FOLDER/shards/*.jsonl`` and ``FOLDER/MANIFEST.json``.
"""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from minitrain.base import files, formats
from minitrain.base.errors import UserError
from minitrain.base.process import run_command
from minitrain.corpus.conjugation import Verb
from minitrain.corpus.generate import make_rows
from minitrain.corpus.rows import Row
from minitrain.corpus.shards import read_shards

ROWS_A_SHARD = 100_000
CONSONANTS, VOWELS = "bdfgklmnprtv", "aeiou"


def verbs() -> Iterator[Verb]:
    """Verbs such as ``badak`` - ``badakar``, as many as are asked for (43,200 are there)."""
    for letters in itertools.product(CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS):
        word = "".join(letters)
        yield Verb(english=word, spanish=word + "ar")


def rows(n: int) -> Iterator[Row]:
    """The first n rows of the first verbs."""
    return itertools.islice((row for verb in verbs() for row in make_rows([verb])), n)


def write(n: int, folder: Path) -> None:
    """Write n rows as shards, and their manifest."""
    stream, written = rows(n), 0
    for index in itertools.count():
        shard = list(itertools.islice(stream, ROWS_A_SHARD))
        if not shard:
            break
        text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in shard)
        files.write_bytes(folder / "shards" / f"shard-{index:03d}.jsonl", text.encode())
        written += len(shard)
    if written < n:
        raise UserError(f"expected at most {written} rows, which all invented verbs give, got {n}.")
    files.write_bytes(folder / "MANIFEST.json", formats.json_bytes(read_shards(folder / "shards").manifest()))


def main() -> None:
    if len(sys.argv) != 3 or not sys.argv[1].isdigit():
        raise UserError("usage: python -m benchmarks.synthetic_shards ROWS FOLDER")
    write(int(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    run_command(main)
