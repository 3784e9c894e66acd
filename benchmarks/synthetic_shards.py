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

from minitrain import corpus, files
from minitrain.conjugation import Verb
from minitrain.errors import UserError, run_command

ROWS_A_SHARD = 100_000
CONSONANTS, VOWELS = "bdfgklmnprtv", "aeiou"


def verbs() -> Iterator[Verb]:
    """Verbs such as ``badak`` - ``badakar``, as many as are asked for (43,200 are there)."""
    for letters in itertools.product(CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS):
        word = "".join(letters)
        yield Verb(english=word, spanish=word + "ar")


def rows(n: int) -> Iterator[corpus.Row]:
    """The first n rows of the first verbs."""
    return itertools.islice((row for verb in verbs() for row in corpus.make_rows([verb])), n)


def write(n: int, folder: Path) -> None:
    """Write n rows as shards, and their manifest."""
    (folder / "shards").mkdir(parents=True)
    stream, written = rows(n), 0
    for index in itertools.count():
        shard = list(itertools.islice(stream, ROWS_A_SHARD))
        if not shard:
            break
        text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in shard)
        (folder / "shards" / f"shard-{index:03d}.jsonl").write_text(text, "utf-8")
        written += len(shard)
    if written < n:
        raise UserError(f"expected at most {written} rows, which all invented verbs give, got {n}.")
    files.write_text(folder / "MANIFEST.json", "".join(corpus.read_shards(folder / "shards").manifest()))


def main() -> None:
    if len(sys.argv) != 3 or not sys.argv[1].isdigit():
        raise UserError("usage: python -m benchmarks.synthetic_shards ROWS FOLDER")
    write(int(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    run_command(main)
