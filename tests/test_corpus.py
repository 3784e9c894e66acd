"""The corpus: right to the accent, the same bytes each time, and no bad row gets in."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from typing import get_args

import pytest

from minitrain.base import files, formats
from minitrain.base.errors import UserError
from minitrain.corpus import conjugation
from minitrain.corpus.conjugation import Verb
from minitrain.corpus.generate import make_rows, read_verbs, shard_files
from minitrain.corpus.rows import fingerprint, parse_row
from minitrain.corpus.shards import read_corpus, read_shards


@pytest.fixture(scope="module")
def verbs(root):
    return read_verbs(root / "data/verbs.yaml")


@pytest.fixture(scope="module")
def rows(root):
    return list(read_corpus(root / "data/shards", root / "data/MANIFEST.json").rows.values())


# Written down by hand, not by the code: every kind of irregularity once.
GOLDEN = [
    ("work", "past_simple", 0, "I worked", "yo trabajé"),
    ("study", "present_simple", 2, "he studies", "él estudia"),
    ("study", "past_simple", 1, "you studied", "tú estudiaste"),
    ("watch", "present_simple", 2, "he watches", "él mira"),
    ("play", "present_simple", 0, "I play", "yo juego"),
    ("play", "past_simple", 0, "I played", "yo jugué"),
    ("start", "past_simple", 0, "I started", "yo empecé"),
    ("start", "present_simple", 1, "you start", "tú empiezas"),
    ("look", "past_simple", 0, "I looked", "yo busqué"),
    ("want", "future_will", 2, "he will want", "él querrá"),
    ("like", "present_simple", 0, "I like", "me gusta"),
    ("like", "past_participle", 2, "he has liked", "le ha gustado"),
    ("like", "future_going_to", 1, "you are going to like", "te va a gustar"),
    ("be", "present_simple", 0, "I am", "yo estoy"),
    ("be", "past_participle", 2, "he has been", "él ha estado"),
    ("have", "future_will", 0, "I will have", "yo tendré"),
    ("do", "past_participle", 1, "you have done", "tú has hecho"),
    ("go", "past_simple", 2, "he went", "él fue"),
    ("go", "present_simple", 2, "he goes", "él va"),
    ("come", "past_simple", 1, "you came", "tú viniste"),
    ("see", "past_simple", 2, "he saw", "él vio"),
    ("eat", "past_simple", 0, "I ate", "yo comí"),
    ("write", "past_participle", 0, "I have written", "yo he escrito"),
    ("write", "infinitive", 0, "to write", "escribir"),
]


@pytest.mark.parametrize(("lemma", "tense", "person", "english", "spanish"), GOLDEN)
def test_forms(verbs, lemma, tense, person, english, spanish):
    verb = next(verb for verb in verbs if verb.english == lemma)
    assert conjugation.english(verb, tense, person) == english
    assert conjugation.spanish(verb, tense, person) == spanish


def test_regularity_follows_from_what_is_spelled_out(verbs):
    assert {verb.english for verb in verbs if verb.english_regularity == "irregular"} == {
        *("be", "have", "do", "go", "come", "see", "eat", "write")
    }
    assert {verb.spanish for verb in verbs if verb.spanish_regularity == "regular"} == {
        *("trabajar", "caminar", "hablar", "escuchar", "mirar", "estudiar", "terminar", "buscar", "gustar", "comer")
    }


def test_mistakes_of_a_verb():
    go = Verb("go", "ir", english_forms={"past_simple": ["went"] * 3, "past_participle": "gone"})
    assert conjugation.mistakes(go, "present_simple", 2) == {"missing_third_person_s": "he go"}
    assert conjugation.mistakes(go, "present_simple", 0) == {"extra_third_person_s": "I goes"}
    assert conjugation.mistakes(go, "past_simple", 1) == {"over_regularized_past": "you goed"}
    assert conjugation.mistakes(go, "future_will", 0) == {"inflected_after_will": "I will went"}
    assert conjugation.mistakes(go, "infinitive", 0) == {}


def test_counts(rows):
    assert Counter(row.label for row in rows) == {"correct": 320, "mis_conjugated": 348}
    assert {row.mis_conjugation_type for row in rows if row.mis_conjugation_type} == set(get_args(conjugation.Mistake))
    per_cell = Counter(row.cell for row in rows if row.label == "mis_conjugated")
    assert set(per_cell.values()) <= {1, 2, 3}


def test_each_form_belongs_to_one_cell_and_no_mistake_is_right(rows):
    right = [row for row in rows if row.label == "correct"]
    assert len({row.text for row in right}) == len({row.spanish for row in right}) == len(right)
    assert not {row.text for row in rows if row.label != "correct"} & {row.text for row in right}


def test_generating_again_gives_the_committed_bytes(root, verbs, tmp_path):
    for name, data in shard_files(make_rows(verbs)).items():
        assert data == (root / "data/shards" / name).read_bytes()
        files.write_bytes(tmp_path / name, data)
    manifest = formats.json_bytes(read_shards(tmp_path).manifest())
    assert manifest == (root / "data/MANIFEST.json").read_bytes()


def command(folder, *arguments):
    """``python -m minitrain.corpus`` in a folder: its exit code and the last line that it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-W", "error", "-m", "minitrain.corpus", *arguments]
    ended = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).splitlines()[-1]


def test_the_command_makes_the_committed_bytes_and_pins_shards_of_ones_own(root, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/verbs.yaml").write_bytes((root / "data/verbs.yaml").read_bytes())
    said = "data/shards: 4 shards, 668 rows (320 correct, 348 mis_conjugated); data/MANIFEST.json"
    assert command(tmp_path) == (0, said)
    for path in [*(root / "data/shards").iterdir(), root / "data/MANIFEST.json"]:
        assert (tmp_path / path.relative_to(root)).read_bytes() == path.read_bytes()

    assert command(tmp_path, "--pin", "data/shards", "own.json") == (0, said.replace("data/MANIFEST.json", "own.json"))
    assert (tmp_path / "own.json").read_bytes() == (root / "data/MANIFEST.json").read_bytes()

    twice = "  - {english: work, spanish: trabajar}\n"
    (tmp_path / "data/verbs.yaml").write_text((root / "data/verbs.yaml").read_text() + twice)
    code, said = command(tmp_path)
    assert (code, "duplicate id: work." in said) == (1, True)
    for path in (root / "data/shards").iterdir():  # nothing was written
        assert (tmp_path / path.relative_to(root)).read_bytes() == path.read_bytes()

    (tmp_path / "data/verbs.yaml").write_bytes((root / "data/verbs.yaml").read_bytes())
    (tmp_path / "data/shards/mine.jsonl").write_text("")
    assert command(tmp_path) == (1, "error: data/shards: mine.jsonl: not made by this command. Move it elsewhere.")


VERBS = {
    "no list": ("verbs: 5", "verbs: expected a list, got int 5."),
    "no keys": ("[]", "expected keys with values, got list []."),
    "no date": ("2001-99-99", "expected YAML with a list 'verbs'"),
    "nested too deep": ("[" * 5000, "expected YAML with a list 'verbs'"),
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


def test_fingerprint_normalises():
    assert fingerprint(" He Works ") == fingerprint("he works")
    assert fingerprint("e\u0301l") == fingerprint("\u00e9l")
    assert fingerprint("I work") != fingerprint("i work")


# --- what must not get in ----------------------------------------------------------------------------


@pytest.fixture
def good(rows):
    """A correct row as a mapping, to be broken."""
    row = next(row for row in rows if row.id == "work.past_simple.1sg")
    return asdict(row)


BAD = {
    "missing key": (lambda row: row.pop("tense"), "key 'tense': this key is missing"),
    "unknown key": (lambda row: row.update(colour="red"), "key 'colour': unknown key"),
    "unknown tense": (
        lambda row: row.update(tense="pluperfect"),
        "key 'tense': expected one of 'infinitive', 'present_simple'",
    ),
    "unknown key over two lines": (lambda row: row.update({"a\nb": 1}), "key 'a b': unknown key"),
    "unknown person": (
        lambda row: row.update(person="1pl"),
        "key 'person': expected one of '1sg', '2sg' or '3sg', got str '1pl'.",
    ),
    "unknown label": (lambda row: row.update(label="wrong"), "key 'label'"),
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


@pytest.mark.parametrize("line", ["", "{", '{"id": }', "[" * 100_000, '{"id": "\\ud800"}', "\ufeff{}"])
def test_broken_json_is_named(line):
    with pytest.raises(UserError, match="^here:1: expected a JSON object, got broken JSON: "):
        parse_row(line, "here:1")


@pytest.mark.parametrize("line", ["[]", '"text"', "null"])
def test_json_that_is_no_object_is_named(line):
    with pytest.raises(UserError, match="^here:1: expected .*, got "):
        parse_row(line, "here:1")


def write_shard(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def test_duplicates_are_named_with_both_places(tmp_path, good):
    write_shard(tmp_path, good, good)
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate id: .* repeats .*a\.jsonl:1"):
        read_shards(tmp_path)
    write_shard(tmp_path, good, {**good, "id": "other"})
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate fingerprint"):
        read_shards(tmp_path)
    other = {**good, "id": "other", "text": "I toiled", "fingerprint": fingerprint("I toiled")}
    write_shard(tmp_path, good, other)
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate cell"):
        read_shards(tmp_path)


def test_a_mistake_must_name_the_right_form_of_its_cell(tmp_path, good):
    wrong = {**good, "id": "w", "text": "I worken", "fingerprint": fingerprint("I worken")}
    wrong |= {"label": "mis_conjugated", "mis_conjugation_type": "over_regularized_past", "correct_form": "I work"}
    write_shard(tmp_path, good, wrong)
    with pytest.raises(UserError, match=r"a\.jsonl:2: key 'correct_form': expected 'I worked'"):
        read_shards(tmp_path)


def test_rows_are_the_lines_of_a_shard(tmp_path, good):
    tmp_path.joinpath("a.jsonl").write_text("")
    assert read_shards(tmp_path).rows == {}
    (tmp_path / "b.jsonl").write_text(json.dumps(good))  # no line break at the end
    row = parse_row(json.dumps(good), "here:1")
    assert read_shards(tmp_path).rows == {f"{tmp_path / 'b.jsonl'}:1": row}
    (tmp_path / "b.jsonl").write_text(json.dumps(good) + "\n\n")
    with pytest.raises(UserError, match=r"b\.jsonl:2: expected a JSON object"):
        read_shards(tmp_path)


def test_a_folder_without_shards_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=str(folder)):
            read_shards(folder)


def test_shards_must_match_their_manifest(tmp_path, good):
    write_shard(tmp_path / "shards", good)
    path = tmp_path / "MANIFEST.json"
    manifest = read_shards(tmp_path / "shards").manifest()
    path.write_bytes(formats.json_bytes(manifest))
    assert len(read_corpus(tmp_path / "shards", path).rows) == 1
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"MANIFEST\.json:\d+: expected JSON"):
        read_corpus(tmp_path / "shards", path)
    path.write_text(json.dumps(manifest))  # spelled in another way: the same manifest
    assert len(read_corpus(tmp_path / "shards", path).rows) == 1
    path.write_text(json.dumps({**manifest, "shards": 5}))
    with pytest.raises(UserError, match="key 'shards': expected a list"):
        read_corpus(tmp_path / "shards", path)
    path.write_text(json.dumps(manifest))

    changed = {**good, "spanish": "yo trabaje"}
    write_shard(tmp_path / "shards", changed)
    with pytest.raises(UserError, match=r"a\.jsonl: sha256: expected"):
        read_corpus(tmp_path / "shards", path)

    write_shard(tmp_path / "shards", good)
    (tmp_path / "shards/b.jsonl").write_text("")
    with pytest.raises(UserError, match=r"b\.jsonl: not listed"):
        read_corpus(tmp_path / "shards", path)
    (tmp_path / "shards/b.jsonl").unlink()
    path.write_text(
        json.dumps({**manifest, "shards": [*manifest["shards"], {"file": "c.jsonl", "rows": 0, "sha256": "0"}]})
    )
    with pytest.raises(UserError, match=r"c\.jsonl: listed in .* but not there"):
        read_corpus(tmp_path / "shards", path)
    path.write_text(json.dumps({**manifest, "counts": {"rows": 2}}))
    with pytest.raises(UserError, match="key 'counts'"):
        read_corpus(tmp_path / "shards", path)
    path.write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(UserError, match="key 'schema_version': expected 1"):
        read_corpus(tmp_path / "shards", path)
