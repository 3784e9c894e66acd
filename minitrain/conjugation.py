"""From a verb's entry in ``data/verbs.yaml`` to its sentences in both languages, right and wrong.

Pure functions: no file is touched here. ``Verb`` is one entry of the table; ``english`` and
``spanish`` give the sentence of a cell (verb, tense, person); ``mistakes`` gives the wrong English
sentences that a learner might write for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

PERSONS = ("1sg", "2sg", "3sg")
FINITE_TENSES = ("present_simple", "past_simple", "past_participle", "future_will", "future_going_to")
TENSES = ("infinitive", *FINITE_TENSES)

MISTAKES = {
    "missing_third_person_s": "the third person without its ending: he work",
    "extra_third_person_s": "the ending of the third person on another one: I works",
    "over_regularized_past": "an irregular past or participle formed by the rule: he goed, he has eated",
    "wrong_agreement": "be or have in the form of another person: I is, he have worked",
    "missing_auxiliary": "going to without be: I going to work",
    "inflected_after_will": "the past form after will: I will worked",
}

# Index 0, 1, 2 is the person 1sg, 2sg, 3sg throughout.
ENGLISH_SUBJECT = ("I", "you", "he")
ENGLISH_BE = ("am", "are", "is")
ENGLISH_HAVE = ("have", "have", "has")
WRONG_BE = ("is", "is", "are")
WRONG_HAVE = ("has", "has", "have")
SPANISH_SUBJECT = ("yo", "tú", "él")
SPANISH_DATIVE = ("me", "te", "le")
SPANISH_HABER = ("he", "has", "ha")
SPANISH_IR = ("voy", "vas", "va")

SPANISH_PRESENT = {"ar": ("o", "as", "a"), "er": ("o", "es", "e"), "ir": ("o", "es", "e")}
SPANISH_PRETERITE = {"ar": ("é", "aste", "ó"), "er": ("í", "iste", "ió"), "ir": ("í", "iste", "ió")}
SPANISH_PARTICIPLE = {"ar": "ado", "er": "ido", "ir": "ido"}
SPANISH_FUTURE = ("é", "ás", "á")
# Before e, these letters change to keep their sound: buscar, busqué. The verb is regular all the same.
SPANISH_BEFORE_E = {"c": "qu", "g": "gu", "z": "c"}


@dataclass(frozen=True)
class Verb:
    """One entry of the table; the ``*_forms`` hold what departs from the rules."""

    english: str
    spanish: str
    english_forms: dict[str, list[str] | str] = field(default_factory=dict)
    spanish_forms: dict[str, list[str] | str] = field(default_factory=dict)
    inverted: bool = False  # gustar: the person is a dative pronoun, the verb stands in 3sg

    @property
    def english_regularity(self) -> str:
        return "irregular" if self.english_forms else "regular"

    @property
    def spanish_regularity(self) -> str:
        return "irregular" if self.spanish_forms else "regular"


def problems(verb: Verb) -> Iterator[str]:
    """What is wrong with an entry of the table, in words."""
    if not (isinstance(verb.english, str) and len(verb.english) >= 2 and verb.english.isalpha()):
        yield f"english: expected a word of at least two letters, got {verb.english!r}"
    if not (isinstance(verb.spanish, str) and verb.spanish[-2:] in SPANISH_PRESENT):
        yield f"spanish: expected an infinitive in -ar, -er or -ir, got {verb.spanish!r}"
    tables = (
        ("english_forms", verb.english_forms, TENSES[1:4]),
        ("spanish_forms", verb.spanish_forms, (*TENSES[1:4], "future")),
    )
    for name, forms, tenses in tables:
        for tense, form in forms.items():
            n_forms = 1 if tense == "past_participle" else 3
            given = [form] if isinstance(form, str) else form
            if tense not in tenses:
                yield f"{name}: expected a tense of {', '.join(tenses)}, got {tense!r}"
            elif not (isinstance(given, list) and len(given) == n_forms and all(isinstance(f, str) for f in given)):
                yield f"{name}: {tense}: expected {n_forms} form{'s' * (n_forms > 1)}, got {form!r}"


def with_s(word: str) -> str:
    """The third person by the rule: works, watches, studies, goes."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word.endswith(("s", "sh", "ch", "x", "z", "o")):
        return word + "es"
    return word + "s"


def with_ed(word: str) -> str:
    """The past by the rule: worked, liked, studied, played."""
    if word.endswith("e"):
        return word + "d"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ied"
    return word + "ed"


def english_form(verb: Verb, tense: str, person: int) -> str:
    """The inflected word alone: present_simple, past_simple or past_participle."""
    form = verb.english_forms.get(tense)
    if form is not None:
        return form if isinstance(form, str) else form[person]
    if tense == "present_simple":
        return with_s(verb.english) if person == 2 else verb.english
    return with_ed(verb.english)


def english(verb: Verb, tense: str, person: int) -> str:
    """The sentence of a cell, such as ``he has worked``; for the infinitive, ``to work``."""
    if tense == "infinitive":
        return f"to {verb.english}"
    subject = ENGLISH_SUBJECT[person]
    if tense == "past_participle":
        return f"{subject} {ENGLISH_HAVE[person]} {english_form(verb, tense, person)}"
    if tense == "future_will":
        return f"{subject} will {verb.english}"
    if tense == "future_going_to":
        return f"{subject} {ENGLISH_BE[person]} going to {verb.english}"
    return f"{subject} {english_form(verb, tense, person)}"


def spanish_form(verb: Verb, tense: str, person: int) -> str:
    """The inflected word alone: present_simple, past_simple, past_participle or future."""
    form = verb.spanish_forms.get(tense)
    if form is not None:
        return form if isinstance(form, str) else form[person]
    stem, conjugation = verb.spanish[:-2], verb.spanish[-2:]
    if tense == "present_simple":
        return stem + SPANISH_PRESENT[conjugation][person]
    if tense == "past_simple":
        ending = SPANISH_PRETERITE[conjugation][person]
        if ending == "é" and stem[-1] in SPANISH_BEFORE_E:
            stem = stem[:-1] + SPANISH_BEFORE_E[stem[-1]]
        return stem + ending
    if tense == "past_participle":
        return stem + SPANISH_PARTICIPLE[conjugation]
    return verb.spanish + SPANISH_FUTURE[person]


def spanish(verb: Verb, tense: str, person: int) -> str:
    """The sentence of a cell, such as ``él ha trabajado``; for the infinitive, ``trabajar``."""
    if tense == "infinitive":
        return verb.spanish
    pronoun = SPANISH_DATIVE[person] if verb.inverted else SPANISH_SUBJECT[person]
    person = 2 if verb.inverted else person
    if tense == "past_participle":
        return f"{pronoun} {SPANISH_HABER[person]} {spanish_form(verb, tense, person)}"
    if tense == "future_will":
        return f"{pronoun} {spanish_form(verb, 'future', person)}"
    if tense == "future_going_to":
        return f"{pronoun} {SPANISH_IR[person]} a {verb.spanish}"
    return f"{pronoun} {spanish_form(verb, tense, person)}"


def mistakes(verb: Verb, tense: str, person: int) -> dict[str, str]:
    """The wrong English sentences of a cell by type of mistake; empty where none of the types applies."""
    if tense == "infinitive":
        return {}
    subject, word = ENGLISH_SUBJECT[person], verb.english
    if tense == "present_simple":
        if word == "be":
            return {"wrong_agreement": f"{subject} {WRONG_BE[person]}"}
        if person == 2:
            return {"missing_third_person_s": f"{subject} {word}"}
        return {"extra_third_person_s": f"{subject} {english_form(verb, tense, 2)}"}
    if tense == "past_simple":
        if verb.english_regularity == "regular":
            return {}
        return {"over_regularized_past": f"{subject} {with_ed(word)}"}
    if tense == "past_participle":
        wrong = {"wrong_agreement": f"{subject} {WRONG_HAVE[person]} {english_form(verb, tense, person)}"}
        if verb.english_regularity == "irregular":
            wrong["over_regularized_past"] = f"{subject} {ENGLISH_HAVE[person]} {with_ed(word)}"
        return wrong
    if tense == "future_will":
        return {"inflected_after_will": f"{subject} will {english_form(verb, 'past_simple', person)}"}
    return {
        "wrong_agreement": f"{subject} {WRONG_BE[person]} going to {word}",
        "missing_auxiliary": f"{subject} going to {word}",
    }
