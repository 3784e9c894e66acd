"""A corpus of your own, as an example: forms of German and Italian verbs, as shards. docs/own-corpus.md trains on it.

``python examples/own-corpus/german_italian.py`` writes 1,984 rows into ``data/german-italian/``, the same bytes each
time. The keys of a row are those of data/README.md: ``text`` has the first language, ``spanish`` the second.
"""

import hashlib
import json
from pathlib import Path

FOLDER = Path("data/german-italian")
# Weak verbs with haben; regular ones with avere.
VERBS = """
akzeptieren accettare, antworten replicare, arbeiten lavorare, atmen respirare, beenden finire, begleiten accompagnare,
bemerken notare, beobachten osservare, bestellen ordinare, besuchen visitare, danken ringraziare, dekorieren decorare,
dienen servire, drehen girare, drücken premere, erklären spiegare, ersetzen sostituire, erzählen raccontare,
exportieren esportare, färben colorare, fischen pescare, fotografieren fotografare, fragen domandare, führen guidare,
fürchten temere, garantieren garantire, glauben credere, gründen fondare, grüßen salutare, hassen odiare,
heilen guarire, heizen riscaldare, hoffen sperare, hören sentire, husten tossire, jagen cacciare, kaufen comprare,
kochen cucinare, kontrollieren controllare, küssen baciare, lehren insegnare, lernen imparare, lieben amare,
loben lodare, mieten affittare, parken parcheggiare, pflanzen piantare, probieren assaggiare, putzen pulire,
rauchen fumare, rechnen calcolare, retten salvare, schicken mandare, spielen giocare, suchen cercare, tanzen ballare,
träumen sognare, trocknen asciugare, verkaufen vendere, warten aspettare, wecken svegliare, wiederholen ripetere,
wohnen abitare, zahlen pagare
"""
PERSONS = ("1sg", "2sg", "3sg", "1pl", "2pl", "3pl")
ICH, IO = ("ich", "du", "er", "wir", "ihr", "sie"), ("io", "tu", "lui", "noi", "voi", "loro")
HABE, HO = ("habe", "hast", "hat", "haben", "habt", "haben"), ("ho", "hai", "ha", "abbiamo", "avete", "hanno")
WERDE = ("werde", "wirst", "wird", "werden", "werdet", "werden")
WUERDE = ("würde", "würdest", "würde", "würden", "würdet", "würden")
ITALIAN_PRESENT = {  # isc: io finisco
    "are": ("o", "i", "a", "iamo", "ate", "ano"),
    "ere": ("o", "i", "e", "iamo", "ete", "ono"),
    "ire": ("o", "i", "e", "iamo", "ite", "ono"),
    "isc": ("isco", "isci", "isce", "iamo", "ite", "iscono"),
}


def german(verb: str) -> dict[str, list[str]]:
    """The forms of a weak verb by tense, for the six persons; du tanzt, er arbeitet, er hat repariert."""
    stem = verb.removesuffix("en")
    e = "e" if stem.endswith(("d", "t", "tm", "chn", "ckn")) else ""
    s = "" if stem.endswith(("s", "ß", "z")) else "s"
    ge = "" if stem.endswith("ier") or verb.startswith(("be", "er", "ver", "wieder")) else "ge"
    return {
        "present": [f"{stem}e", f"{stem}{e}{s}t", f"{stem}{e}t", verb, f"{stem}{e}t", verb],
        "past": [f"{stem}{e}te{ending}" for ending in ("", "st", "", "n", "t", "n")],
        "perfect": [f"{have} {ge}{stem}{e}t" for have in HABE],
        "future": [f"{will} {verb}" for will in WERDE],
        "conditional": [f"{would} {verb}" for would in WUERDE],
    }


def italian(verb: str) -> dict[str, list[str]]:
    """The forms of a regular verb by tense, for the six persons; tu cerchi, tu mangi, lui mangerà."""
    kind, a = verb[-3:], verb[-3]
    has_isc = kind == "ire" and verb not in ("sentire", "servire")
    e = "e" if a == "a" else a  # lavorerò

    def join(ending: str) -> str:
        stem = verb[:-3]
        if kind == "are" and stem.endswith(("c", "g")) and ending[0] in "ei":
            return f"{stem}h{ending}"
        silent = stem.endswith(("ci", "gi")) and ending[0] in "ei"
        return stem[: -1 if silent or (stem.endswith("i") and ending[0] == "i") else None] + ending

    return {
        "present": [join(ending) for ending in ITALIAN_PRESENT["isc" if has_isc else kind]],
        "past": [join(f"{a}v{ending}") for ending in ("o", "i", "a", "amo", "ate", "ano")],
        "perfect": [f"{have} {join({'a': 'ato', 'e': 'uto', 'i': 'ito'}[a])}" for have in HO],
        "future": [join(f"{e}r{ending}") for ending in ("ò", "ai", "à", "emo", "ete", "anno")],
        "conditional": [join(f"{e}r{ending}") for ending in ("ei", "esti", "ebbe", "emmo", "este", "ebbero")],
    }


def rows(verb: str, second_verb: str) -> list[dict[str, object]]:
    """The rows of a verb: its infinitive, then each person of each tense."""
    first, second = german(verb), italian(second_verb)
    cells: list[tuple[str, str | None, str, str]] = [("infinitive", None, verb, second_verb)]
    for tense in first:
        forms = zip(PERSONS, ICH, first[tense], IO, second[tense], strict=True)
        cells += [(tense, person, f"{ich} {form}", f"{io} {forma}") for person, ich, form, io, forma in forms]
    return [
        {
            "id": ".".join(filter(None, (verb, tense, person))),
            "text": text,
            "spanish": translation,
            "verb_lemma": verb,
            "spanish_lemma": second_verb,
            "tense": tense,
            "person": person,
            "english_regularity": "regular",
            "spanish_regularity": "regular",
            "label": "correct",
            "mis_conjugation_type": None,
            "correct_form": None,
            "seed": 0,
            "fingerprint": hashlib.sha256(text.lower().encode()).hexdigest(),
        }
        for tense, person, text, translation in cells
    ]


def main() -> None:
    """One shard for each kind of Italian verb."""
    pairs = [pair.split() for pair in VERBS.split(",")]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for kind in ("are", "ere", "ire"):
        lines = [
            json.dumps(row, ensure_ascii=False) + "\n"
            for verb, second_verb in pairs
            if second_verb.endswith(kind)
            for row in rows(verb, second_verb)
        ]
        (FOLDER / f"{kind}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
