"""Which cells are held out: the split into train, val and test.

What is held out is a group of finite cells: one cell, all persons of a (verb, tense), or a whole
verb. Infinitives always train. The choice is stratified by tense and regularity and depends on the
seed and the cells' names alone, not on the order of rows.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

from minitrain.batches import SPLITS
from minitrain.corpus import Row
from minitrain.errors import UserError

SPLIT_BY = ("cell", "verb_tense", "verb")


def split_cells(rows: Iterable[Row], by: str, seed: int, val_fraction: float, test_fraction: float) -> dict[str, str]:
    """``{cell: "train" | "val" | "test"}`` for all cells of ``rows`` (the correct ones are what counts).

    ``val_fraction`` and ``test_fraction`` are fractions of the finite groups. With ``by="cell"`` at
    least one person of each (verb, tense) stays in train. Raises UserError when a split comes out empty.
    """
    rows = list(rows)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.tense != "infinitive":
            groups[_group(row, by)].append(row)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, members in groups.items():
        tense = () if by == "verb" else (members[0].tense,)
        strata[(*tense, members[0].english_regularity)].append(name)

    quotas = {
        split: _quotas({s: len(names) for s, names in strata.items()}, f)
        for split, f in (("val", val_fraction), ("test", test_fraction))
    }
    persons = Counter((row.verb_lemma, row.tense) for row in rows)
    held_out: dict[str, str] = {}
    for stratum, names in sorted(strata.items()):
        waiting = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        for split in ("val", "test"):
            for name in list(waiting):
                if quotas[split][stratum] == 0:
                    break
                verb_tense = (groups[name][0].verb_lemma, groups[name][0].tense)
                if by == "cell" and persons[verb_tense] == 1:
                    continue  # the last person of this verb and tense stays in train
                persons[verb_tense] -= 1
                quotas[split][stratum] -= 1
                waiting.remove(name)
                held_out[name] = split
    result = {
        row.cell: "train" if row.tense == "infinitive" else held_out.get(_group(row, by), "train") for row in rows
    }
    for split in SPLITS:
        if split not in result.values():
            raise UserError(
                f"split: no cell falls into {split}. The corpus has {len(groups)} groups by {by}; raise "
                "split.val_fraction or split.test_fraction, or add rows."
            )
    return result


def _group(row: Row, by: str) -> str:
    return {"cell": row.cell, "verb_tense": f"{row.verb_lemma}.{row.tense}", "verb": row.verb_lemma}[by]


def _quotas(sizes: dict[tuple[str, ...], int], fraction: float) -> dict[tuple[str, ...], int]:
    """Share ``fraction`` of all groups out to the strata in proportion, by largest remainder."""
    quotas = {stratum: int(size * fraction) for stratum, size in sizes.items()}
    left = round(sum(sizes.values()) * fraction) - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda s: (quotas[s] - sizes[s] * fraction, s))
    for stratum in by_remainder[:left]:
        quotas[stratum] += 1
    return quotas
