"""From a verb's entry in ``data/verbs.yaml`` to its sentences in both languages, right and wrong.

Pure functions: no file is touched here. ``Verb`` is one entry of the table; ``english`` and
``spanish`` give the sentence of a cell (verb, tense, person); ``mistakes`` gives the wrong English
sentences that a learner might write for it.
"""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

Person = Literal["1sg", "2sg", "3sg"]
FiniteTense = Literal["present_simple", "past_simple", "past_participle", "future_will", "future_going_to"]
Tense = Literal["infinitive", FiniteTense]
Mistake = Literal[
    "missing_third_person_s",  # the third person without its ending: he work
    "extra_third_person_s",  # the ending of the third person on another one: I works
    "over_regularized_past",  # an irregular past or participle formed by the rule: he goed, he has eated
    "wrong_agreement",  # be or have in the form of another person: I is, he have worked
    "missing_auxiliary",  # going to without be: I going to work
    "inflected_after_will",  # the past form after will: I will worked
]
PERSONS: tuple[Person, ...] = get_args(Person)
TENSES: tuple[Tense, ...] = get_args(Tense)

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

ENGLISH = {
    "infinitive": "to {verb}",
    "present_simple": "{subject} {form}",
    "past_simple": "{subject} {form}",
    "past_participle": "{subject} {have} {form}",
    "future_will": "{subject} will {verb}",
    "future_going_to": "{subject} {be} going to {verb}",
}
SPANISH = {
    "infinitive": "{verb}",
    "present_simple": "{subject} {form}",
    "past_simple": "{subject} {form}",
    "past_participle": "{subject} {haber} {form}",
    "future_will": "{subject} {form}",
    "future_going_to": "{subject} {ir} a {verb}",
}

# The forms that depart from the rules: one for each person; in the file, one text may stand for all.
FormTense = Annotated[str, Field(pattern="^(present_simple|past_simple|past_participle|future_will)$")]
Form = Annotated[str, Field(pattern=r"^\w+$")]
OneForAll = BeforeValidator(lambda form: [form] * 3 if isinstance(form, str) else form)
Forms = dict[FormTense, Annotated[list[Form], Field(min_length=3, max_length=3), OneForAll]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Verb:
    """One entry of the table; the ``*_forms`` hold what departs from the rules."""

    english: Annotated[str, Field(pattern="^[a-z]{2,}$")]
    spanish: Annotated[str, Field(pattern=r"^\w*(ar|er|ir)$")]
    english_forms: Forms = Field(default_factory=dict)
    spanish_forms: Forms = Field(default_factory=dict)
    inverted: bool = False  # gustar: the person is a dative pronoun, the verb is in 3sg

    @property
    def english_regularity(self) -> Literal["regular", "irregular"]:
        return "irregular" if self.english_forms else "regular"

    @property
    def spanish_regularity(self) -> Literal["regular", "irregular"]:
        return "irregular" if self.spanish_forms else "regular"


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
    if tense in verb.english_forms:
        return verb.english_forms[tense][person]
    if tense == "present_simple":
        return with_s(verb.english) if person == 2 else verb.english
    return with_ed(verb.english)


def english(verb: Verb, tense: str, person: int) -> str:
    """The sentence of a cell, such as ``he has worked``; for the infinitive, ``to work``."""
    return ENGLISH[tense].format(
        subject=ENGLISH_SUBJECT[person],
        verb=verb.english,
        form=english_form(verb, tense, person),
        have=ENGLISH_HAVE[person],
        be=ENGLISH_BE[person],
    )


def spanish_form(verb: Verb, tense: str, person: int) -> str:
    """The inflected word alone: present_simple, past_simple, past_participle or future_will."""
    if tense in verb.spanish_forms:
        return verb.spanish_forms[tense][person]
    stem, conjugation = verb.spanish[:-2], verb.spanish[-2:]
    endings = {
        "present_simple": SPANISH_PRESENT[conjugation][person],
        "past_simple": SPANISH_PRETERITE[conjugation][person],
        "past_participle": SPANISH_PARTICIPLE[conjugation],
        "future_will": conjugation + SPANISH_FUTURE[person],
    }
    if endings[tense] == "é" and stem[-1] in SPANISH_BEFORE_E:
        stem = stem[:-1] + SPANISH_BEFORE_E[stem[-1]]
    return stem + endings[tense]


def spanish(verb: Verb, tense: str, person: int) -> str:
    """The sentence of a cell, such as ``él ha trabajado``; for the infinitive, ``trabajar``."""
    subject = SPANISH_DATIVE[person] if verb.inverted else SPANISH_SUBJECT[person]
    person = 2 if verb.inverted else person
    return SPANISH[tense].format(
        subject=subject,
        verb=verb.spanish,
        form=spanish_form(verb, tense, person) if "{form}" in SPANISH[tense] else "",
        haber=SPANISH_HABER[person],
        ir=SPANISH_IR[person],
    )


def mistakes(verb: Verb, tense: str, person: int) -> dict[Mistake, str]:
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
        return {"over_regularized_past": f"{subject} {with_ed(word)}"} if verb.english_forms else {}
    if tense == "past_participle":
        wrong: dict[Mistake, str] = {
            "wrong_agreement": f"{subject} {WRONG_HAVE[person]} {english_form(verb, tense, person)}"
        }
        if verb.english_forms:
            wrong["over_regularized_past"] = f"{subject} {ENGLISH_HAVE[person]} {with_ed(word)}"
        return wrong
    if tense == "future_will":
        return {"inflected_after_will": f"{subject} will {english_form(verb, 'past_simple', person)}"}
    return {
        "wrong_agreement": f"{subject} {WRONG_BE[person]} going to {word}",
        "missing_auxiliary": f"{subject} going to {word}",
    }
