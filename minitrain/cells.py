"""``data/batches/cells.json``: what each cell is, and in which split. A store refers to cells by their place in it."""

import heapq
import io
import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

CELL_COLUMNS = ("cell", "verb", "tense", "person", "english_regularity", "spanish_regularity", "split")


def encode_cells(cells_by_split: Mapping[str, Iterable[tuple[str | None, ...]]]) -> bytes:
    """The cells in the order of their ids, which is that of their names: JSON, a line each.

    A cell is given as a tuple that begins with CELL_COLUMNS, but for the split.
    """
    encode = json.JSONEncoder(ensure_ascii=False).encode
    file = io.BytesIO(f'{{"columns": {encode(CELL_COLUMNS)}, "cells": ['.encode())
    file.seek(0, io.SEEK_END)
    in_order = (zip(sorted(of), itertools.repeat(split)) for split, of in cells_by_split.items())
    for index, (cell, split) in enumerate(heapq.merge(*in_order)):
        line = encode([*cell[: len(CELL_COLUMNS) - 1], split])
        file.write(f"{',' if index else ''}\n{line}".encode())
    file.write(b"\n]}\n")
    return file.getvalue()


def decode_cells(value: Any) -> list[dict[str, Any]]:
    """What ``encode_cells`` wrote, parsed: a mapping for each cell. ValueError, KeyError or TypeError for anything
    else.
    """
    if tuple(value["columns"]) != CELL_COLUMNS:
        raise ValueError(f"expected the columns {', '.join(CELL_COLUMNS)}")
    return [dict(zip(CELL_COLUMNS, row, strict=True)) for row in value["cells"]]
