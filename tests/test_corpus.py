"""The corpus: right to the accent, the same bytes each time, and no bad row gets in."""

import json
import shutil
from dataclasses import asdict

import pytest
from conftest import ROOT, edit, run_python

from minitrain.base import UserError, formats
from minitrain.corpus.generate import read_verbs
from minitrain.corpus.rows import fingerprint, parse_row
from minitrain.corpus.shards import read_corpus, read_shards

COMMITTED = [*(f"data/shards/shard-0{n}.jsonl" for n in range(4)), "data/MANIFEST.json"]


# Written down by hand, not by the code: every kind of irregularity once.
FORMS = {
    "I worked": "yo trabajé",
    "he studies": "él estudia",
    "you studied": "tú estudiaste",
    "he watches": "él mira",
    "I play": "yo juego",
    "I played": "yo jugué",
    "I started": "yo empecé",
    "you start": "tú empiezas",
    "I looked": "yo busqué",
    "he will want": "él querrá",
    "I like": "me gusta",
    "he has liked": "le ha gustado",
    "you are going to like": "te va a gustar",
    "I am": "yo estoy",
    "he has been": "él ha estado",
    "I will have": "yo tendré",
    "you have done": "tú has hecho",
    "he went": "él fue",
    "he goes": "él va",
    "you came": "tú viniste",
    "he saw": "él vio",
    "I ate": "yo comí",
    "I have written": "yo he escrito",
    "to write": "escribir",
}


def test_forms_are_those_written_down_by_hand(rows):
    forms = {row.text: row.spanish for row in rows}
    assert {text: forms.get(text) for text in FORMS} == FORMS


def corpus_command(folder):
    """``python -m minitrain.corpus`` in a folder: its exit code and the last line that it printed."""
    ended = run_python(folder, "-m", "minitrain.corpus", PYTHONPATH=str(ROOT))
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()[-1]


def test_the_command_makes_the_committed_bytes_and_nothing_from_a_wrong_table(root, tmp_path):
    committed = {path: (root / path).read_bytes() for path in COMMITTED}
    (tmp_path / "data").mkdir()
    shutil.copy(root / "data/verbs.yaml", tmp_path / "data")
    said = "data/shards: 4 shards, 668 rows (320 correct, 348 mis_conjugated); data/MANIFEST.json"
    assert corpus_command(tmp_path) == (0, said)
    assert {path: (tmp_path / path).read_bytes() for path in COMMITTED} == committed

    edit(tmp_path / "data/verbs.yaml", {"verbs:": "verbs:\n  - {english: work, spanish: trabajar}"})
    code, said = corpus_command(tmp_path)
    assert (code, "duplicate id: work." in said) == (1, True)
    assert {path: (tmp_path / path).read_bytes() for path in COMMITTED} == committed


VERBS = {
    "no list": ("verbs: 5", "verbs: expected a list, got int 5."),
    "no keys": ("[]", "expected keys with values, got list []."),
    "no date": ("2001-99-99", "expected YAML: month must be in 1..12"),
    "nested too deep": ("[" * 1000, "expected YAML: maximum recursion depth exceeded"),
    "no verbs": ("{}", "verbs"),
    "broken YAML": ("verbs: [", "expected YAML"),
    "not a verb": ("verbs: [{english: g0, spanish: ir}]", "english"),
    "not an infinitive": ("verbs: [{english: go, spanish: voy}]", "spanish"),
    "unknown key": ("verbs: [{english: go, spanish: ir, colour: red}]", "colour"),
    "unknown tense": ("verbs: [{english: go, spanish: ir, english_forms: {pluperfect: had}}]", "pluperfect"),
    "two forms": ("verbs: [{english: go, spanish: ir, english_forms: {past_simple: [went, went]}}]", "past_simple"),
    "number for form": ("verbs: [{english: go, spanish: ir, spanish_forms: {past_participle: 5}}]", "past_participle"),
}


@pytest.mark.parametrize("name", VERBS)
def test_what_is_wrong_with_the_table_of_verbs_is_named(tmp_path, name):
    content, message = VERBS[name]
    (tmp_path / "verbs.yaml").write_text(content)
    with pytest.raises(UserError, match=r"verbs\.yaml: ") as caught:
        read_verbs(tmp_path / "verbs.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fingerprint_ignores_case_and_spaces_around_and_how_accents_are_encoded():
    assert fingerprint(" He Works ") == fingerprint("he works")
    assert fingerprint("e\u0301l") == fingerprint("\u00e9l")
    assert fingerprint("I work") != fingerprint("i work")


# --- what must not get in ----------------------------------------------------------------------------


@pytest.fixture
def good(rows):
    """A correct row as a mapping, to be broken."""
    return asdict(next(row for row in rows if row.id == "work.past_simple.1sg"))


BAD = {
    "missing key": (lambda row: row.pop("tense"), "key 'tense': this key is missing"),
    "unknown key": (lambda row: row.update(colour="red"), "key 'colour': unknown key"),
    "empty tense": (lambda row: row.update(tense=""), "key 'tense': expected one line of printable text"),
    "unknown key over two lines": (lambda row: row.update({"a\nb": 1}), "key 'a b': unknown key"),
    "number for person": (lambda row: row.update(person=1), "key 'person': expected text, got int 1."),
    "unknown label": (
        lambda row: row.update(label="wrong"),
        "key 'label': expected one of 'correct' or 'mis_conjugated', got str 'wrong'.",
    ),
    "number for text": (lambda row: row.update(text=5), "key 'text': expected text, got int 5."),
    "null for text": (lambda row: row.update(text=None), "key 'text': expected text, got NoneType None."),
    "empty text": (lambda row: row.update(spanish=""), "key 'spanish': expected one line of printable text"),
    "line break": (lambda row: row.update(spanish="yo\ntrabajé"), "printable"),
    "true for seed": (lambda row: row.update(seed=True), "key 'seed': expected a whole number, got bool True."),
    "float for seed": (lambda row: row.update(seed=18.0), "key 'seed': expected a whole number, got float 18.0."),
    "person of an infinitive": (lambda row: row.update(tense="infinitive"), "key 'person': expected null"),
    "no person": (lambda row: row.update(person=None), "key 'person'"),
    "mistake in a correct row": (lambda row: row.update(correct_form="x"), "key 'correct_form': expected null"),
    "wrong fingerprint": (lambda row: row.update(text="I walked"), "key 'fingerprint': expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(good, name):
    breaking, message = BAD[name]
    breaking(good)
    with pytest.raises(UserError, match=r"^here:3: ") as caught:
        parse_row(json.dumps(good), "here:3")
    assert message in str(caught.value)


BROKEN = "expected a JSON object, got broken JSON: "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((line, BROKEN) for line in ("", "{", '{"id": }', "[" * 100_000, '{"id": "\\ud800"}', "\ufeff{}")),
        *((line, "expected .*, got ") for line in ("[]", '"text"', "null")),
    ],
)
def test_a_line_that_is_no_json_object_is_named(line, message):
    with pytest.raises(UserError, match=f"^here:1: {message}"):
        parse_row(line, "here:1")


def write_shard(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def with_text(text):
    return {"id": "other", "text": text, "fingerprint": fingerprint(text)}


MISTAKE = {"label": "mis_conjugated", "mis_conjugation_type": "over_regularized_past", "correct_form": "I work"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"a\.jsonl:2: duplicate id: .* repeats .*a\.jsonl:1"),
        ({"id": "other"}, r"a\.jsonl:2: duplicate fingerprint"),
        (with_text("I toiled"), r"a\.jsonl:2: duplicate cell"),
        (with_text("I worken") | MISTAKE, r"a\.jsonl:2: key 'correct_form': expected 'I worked'"),
    ],
)
def test_a_row_that_does_not_go_with_another_is_named(tmp_path, good, change, message):
    write_shard(tmp_path, good, {**good, **change})
    with pytest.raises(UserError, match=message):
        read_shards(tmp_path)


def test_rows_are_the_lines_of_a_shard(tmp_path, good):
    (tmp_path / "b.jsonl").write_text(json.dumps(good))  # no line break at the end
    (tmp_path / ".#b.jsonl").symlink_to("of an editor")
    assert list(read_shards(tmp_path).rows) == [f"{tmp_path / 'b.jsonl'}:1"]
    (tmp_path / "b.jsonl").write_text(json.dumps(good) + "\n\n")
    with pytest.raises(UserError, match=r"b\.jsonl:2: expected a JSON object"):
        read_shards(tmp_path)


MANIFESTS = {
    "not JSON": (lambda text, _: text[:-5], r"MANIFEST\.json:\d+: expected JSON"),
    "no shards": (lambda _, m: json.dumps({**m, "shards": 5}), "key 'shards': expected a list"),
    "another digest": (
        lambda text, m: text.replace(m["shards"][0]["sha256"], "0"),
        r"a\.jsonl: expected {.*'sha256': '0'.* got {",
    ),
    "another number of rows": (
        lambda text, _: text.replace('"rows": 1', '"rows": 2'),
        r"a\.jsonl: expected {.*'rows': 2.* got {.*'rows': 1",
    ),
    "no such shard": (
        lambda text, _: text.replace("a.jsonl", "c.jsonl"),
        r"a\.jsonl: expected no such shard as in .*MANIFEST\.json, got {",
    ),
    "a shard too many": (
        lambda _, m: json.dumps({**m, "shards": [*m["shards"], {"file": "c.jsonl"}]}),
        r"c\.jsonl: expected {'file': 'c\.jsonl'} as in .*MANIFEST\.json, got none",
    ),
    "other counts": (
        lambda _, m: json.dumps({**m, "counts": {"rows": 2}}),
        r"key 'counts': expected {'rows': 1.* got {'rows': 2}",
    ),
    "another schema": (lambda _, m: json.dumps({**m, "schema_version": 99}), "key 'schema_version': expected 1"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_shards_must_match_their_manifest(tmp_path, good, name):
    change, message = MANIFESTS[name]
    write_shard(tmp_path / "shards", good)
    path, manifest = tmp_path / "MANIFEST.json", read_shards(tmp_path / "shards").manifest()
    path.write_text(json.dumps(manifest))  # as a line: how it is spelled does not matter
    assert len(read_corpus(tmp_path / "shards", path).rows) == 1
    path.write_text(change(formats.json_bytes(manifest).decode(), manifest))
    with pytest.raises(UserError, match=message):
        read_corpus(tmp_path / "shards", path)
