"""Which cells are held out: the split into train, val and test.

What is held out is a group of finite cells: one cell, all persons of a (verb, tense), or a whole
verb. Infinitives always train. The choice is stratified by tense and regularity and depends on the
seed and the cells' names alone, not on the order of rows.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from minitrain.base.errors import UserError
from minitrain.corpus.rows import Row
from minitrain.dataset.stores import SPLITS
from minitrain.params import SplitConfig


def split_cells(rows: Sequence[Row], config: SplitConfig) -> dict[str, str]:
    """``{cell: "train" | "val" | "test"}`` for the cells of some correct rows.

    The fractions of ``config`` are of the finite groups. With ``by="cell"`` at least one person of each
    (verb, tense) stays in train. Raises UserError when a split comes out empty.
    """
    by = config.by
    first_of: dict[str, Row] = {}  # the first row of each group, by the group's name; it decides the stratum
    for row in sorted(rows, key=lambda row: row.cell):
        if row.tense != "infinitive":
            first_of.setdefault(_group(row, by), row)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, row in first_of.items():
        strata["" if by == "verb" else row.tense, row.english_regularity].append(name)

    quotas = {
        split: _quotas({s: len(names) for s, names in strata.items()}, f)
        for split, f in (("val", config.val_fraction), ("test", config.test_fraction))
    }
    persons = Counter((row.verb_lemma, row.tense) for row in rows)
    held_out: dict[str, str] = {}
    for stratum, names in sorted(strata.items()):
        for name in sorted(names, key=lambda name: hashlib.sha256(f"{config.seed}:{name}".encode()).digest()):
            verb_tense = (first_of[name].verb_lemma, first_of[name].tense)
            is_last_person = by == "cell" and persons[verb_tense] == 1  # stays in train
            split = next((split for split in ("val", "test") if quotas[split][stratum] > 0), None)
            if split is not None and not is_last_person:
                persons[verb_tense] -= 1
                quotas[split][stratum] -= 1
                held_out[name] = split
    result = {
        row.cell: "train" if row.tense == "infinitive" else held_out.get(_group(row, by), "train") for row in rows
    }
    if empty := set(SPLITS) - set(result.values()):
        raise UserError(
            f"split: no cell falls into {', '.join(sorted(empty))}. The corpus has {len(first_of)} groups by {by}; "
            "raise split.val_fraction or split.test_fraction, or add rows."
        )
    return result


def _group(row: Row, by: str) -> str:
    return {"cell": row.cell, "verb_tense": f"{row.verb_lemma}.{row.tense}", "verb": row.verb_lemma}[by]


def _quotas(sizes: dict[tuple[str, ...], int], fraction: float) -> dict[tuple[str, ...], int]:
    """How many groups of each stratum make up ``fraction`` of all groups: in proportion, by largest remainder."""
    quotas = {stratum: int(size * fraction) for stratum, size in sizes.items()}
    missing = round(sum(sizes.values()) * fraction) - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda s: (quotas[s] - sizes[s] * fraction, s))
    for stratum in by_remainder[:missing]:
        quotas[stratum] += 1
    return quotas
