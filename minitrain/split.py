"""Which cells are held out: the split into train, val and test.

What is held out is a group of finite cells: one cell, all persons of a (verb, tense), or a whole
verb. Infinitives always train. The choice is stratified by tense and regularity and depends on the
seed and the cells' names alone, not on the order of rows.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from minitrain.batches import SPLITS
from minitrain.corpus import Example
from minitrain.errors import UserError

SPLIT_BY = ("cell", "verb_tense", "verb")


def split_cells(
    examples: Sequence[Example], by: str, seed: int, val_fraction: float, test_fraction: float
) -> dict[str, str]:
    """``{cell: "train" | "val" | "test"}`` for the cells of all correct rows.

    ``val_fraction`` and ``test_fraction`` are fractions of the finite groups. With ``by="cell"`` at
    least one person of each (verb, tense) stays in train. Raises UserError when a split comes out empty.
    """
    first_of: dict[str, Example] = {}  # of each group by name, who speaks for all
    for example in sorted(examples):
        if example.tense != "infinitive":
            first_of.setdefault(_group(example, by), example)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, example in first_of.items():
        tense = () if by == "verb" else (example.tense,)
        strata[(*tense, example.english_regularity)].append(name)

    quotas = {
        split: _quotas({s: len(names) for s, names in strata.items()}, f)
        for split, f in (("val", val_fraction), ("test", test_fraction))
    }
    persons = Counter((example.verb_lemma, example.tense) for example in examples)
    held_out: dict[str, str] = {}
    for stratum, names in sorted(strata.items()):
        waiting = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        for split in ("val", "test"):
            passed_over = []
            for name in waiting:
                verb_tense = (first_of[name].verb_lemma, first_of[name].tense)
                # The last person of a verb and tense stays in train.
                if quotas[split][stratum] == 0 or (by == "cell" and persons[verb_tense] == 1):
                    passed_over.append(name)
                    continue
                persons[verb_tense] -= 1  # counts for by="cell" alone
                quotas[split][stratum] -= 1
                held_out[name] = split
            waiting = passed_over
    result = {
        example.cell: "train" if example.tense == "infinitive" else held_out.get(_group(example, by), "train")
        for example in examples
    }
    used = set(result.values())
    for split in SPLITS:
        if split not in used:
            raise UserError(
                f"split: no cell falls into {split}. The corpus has {len(first_of)} groups by {by}; raise "
                "split.val_fraction or split.test_fraction, or add rows."
            )
    return result


def _group(example: Example, by: str) -> str:
    match by:
        case "cell":
            return example.cell
        case "verb_tense":
            return f"{example.verb_lemma}.{example.tense}"
        case _:
            return example.verb_lemma


def _quotas(sizes: dict[tuple[str, ...], int], fraction: float) -> dict[tuple[str, ...], int]:
    """Share ``fraction`` of all groups out to the strata in proportion, by largest remainder."""
    quotas = {stratum: int(size * fraction) for stratum, size in sizes.items()}
    left = round(sum(sizes.values()) * fraction) - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda s: (quotas[s] - sizes[s] * fraction, s))
    for stratum in by_remainder[:left]:
        quotas[stratum] += 1
    return quotas
