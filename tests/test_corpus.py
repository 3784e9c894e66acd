"""The corpus: right to the accent, the same bytes each time, and no bad row gets in."""

import json
from collections import Counter

import pytest

from minitrain import conjugation, corpus, files
from minitrain.conjugation import Verb
from minitrain.errors import UserError


@pytest.fixture(scope="module")
def verbs(root):
    return corpus.read_verbs(root / "data/verbs.yaml")


@pytest.fixture(scope="module")
def rows(root):
    census = corpus.read_corpus(root / "data/shards", root / "data/MANIFEST.json")
    rows = [row for _, row in corpus.read_rows(corpus.shards_of(root / "data/shards"))]
    assert [example.text for example in census.examples] == [row.text for row in rows if row.label == "correct"]
    return rows


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
    assert {row.mis_conjugation_type for row in rows if row.mis_conjugation_type} == set(conjugation.MISTAKES)
    per_cell = Counter(row.cell for row in rows if row.label == "mis_conjugated")
    assert set(per_cell.values()) <= {1, 2, 3}


def test_each_form_belongs_to_one_cell_and_no_mistake_is_right(rows):
    right = [row for row in rows if row.label == "correct"]
    assert len({row.text for row in right}) == len({row.spanish for row in right}) == len(right)
    assert not {row.text for row in rows if row.label != "correct"} & {row.text for row in right}


def test_generating_again_gives_the_committed_bytes(root, verbs, tmp_path):
    for name, text in corpus.shard_texts(corpus.make_rows(verbs)).items():
        assert text.encode() == (root / "data/shards" / name).read_bytes()
        files.write_text(tmp_path / name, text)
    manifest = "".join(corpus.read_shards(tmp_path).manifest())
    assert manifest.encode() == (root / "data/MANIFEST.json").read_bytes()
    assert files.canonical_json(json.loads(manifest)) == manifest


def test_fingerprint_normalises():
    assert corpus.fingerprint(" He Works ") == corpus.fingerprint("he works")
    assert corpus.fingerprint("e\u0301l") == corpus.fingerprint("\u00e9l")
    assert corpus.fingerprint("I work") != corpus.fingerprint("i work")


# --- what must not get in ----------------------------------------------------------------------------


@pytest.fixture
def good(rows):
    """A correct row as a mapping, to be broken."""
    row = next(row for row in rows if row.id == "work.past_simple.1sg")
    return {key: getattr(row, key) for key in corpus.KEYS}


BAD = {
    "missing key": (lambda row: row.pop("tense"), "key 'tense' is missing"),
    "unknown key": (lambda row: row.update(colour="red"), "unknown key 'colour'"),
    "unknown tense": (lambda row: row.update(tense="pluperfect"), "key 'tense': expected one of infinitive"),
    "unknown person": (lambda row: row.update(person="1pl"), "key 'person': expected one of 1sg"),
    "unknown label": (lambda row: row.update(label="wrong"), "key 'label'"),
    "number for text": (lambda row: row.update(text=5), "key 'text': expected str, got int"),
    "null for text": (lambda row: row.update(text=None), "key 'text': expected str, got NoneType"),
    "empty text": (lambda row: row.update(spanish=""), "key 'spanish': expected one line of printable text"),
    "line break": (lambda row: row.update(spanish="yo\ntrabajé"), "printable"),
    "true for seed": (lambda row: row.update(seed=True), "key 'seed': expected int, got bool"),
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
        corpus.parse_row(json.dumps(good), "here:3")
    assert message in str(caught.value)


@pytest.mark.parametrize("line", ["", "{", "[]", '"text"', "null", '{"id": }', "[" * 100_000])
def test_broken_json_is_named(line):
    with pytest.raises(UserError, match="here:1: expected a JSON object"):
        corpus.parse_row(line, "here:1")


def write_shard(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def test_duplicates_are_named_with_both_places(tmp_path, good):
    write_shard(tmp_path, good, good)
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate id: .* repeats .*a\.jsonl:1"):
        corpus.read_shards(tmp_path)
    write_shard(tmp_path, good, {**good, "id": "other"})
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate fingerprint"):
        corpus.read_shards(tmp_path)
    other = {**good, "id": "other", "text": "I toiled", "fingerprint": corpus.fingerprint("I toiled")}
    write_shard(tmp_path, good, other)
    with pytest.raises(UserError, match=r"a\.jsonl:2: duplicate cell"):
        corpus.read_shards(tmp_path)


def test_a_mistake_must_name_the_right_form_of_its_cell(tmp_path, good):
    wrong = {**good, "id": "w", "text": "I worken", "fingerprint": corpus.fingerprint("I worken")}
    wrong |= {"label": "mis_conjugated", "mis_conjugation_type": "over_regularized_past", "correct_form": "I work"}
    write_shard(tmp_path, good, wrong)
    with pytest.raises(UserError, match=r"a\.jsonl:2: key 'correct_form': expected 'I worked'"):
        corpus.read_shards(tmp_path)


def test_a_folder_without_shards_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=str(folder)):
            corpus.read_shards(folder)


def test_shards_must_match_their_manifest(tmp_path, good):
    write_shard(tmp_path / "shards", good)
    path = tmp_path / "MANIFEST.json"
    files.write_text(path, "".join(corpus.read_shards(tmp_path / "shards").manifest()))
    manifest = files.read_json(path)
    assert len(corpus.read_corpus(tmp_path / "shards", path).examples) == 1
    pieces = list(corpus.read_shards(tmp_path / "shards").manifest())
    for n in range(len(pieces)):  # cut between two pieces of its text
        path.write_text("".join(pieces[:n]))
        with pytest.raises(UserError, match=r"MANIFEST\.json:\d+: expected JSON"):
            corpus.read_corpus(tmp_path / "shards", path)
    path.write_text(json.dumps(manifest))  # spelled in another way: the same manifest
    assert len(corpus.read_corpus(tmp_path / "shards", path).examples) == 1

    changed = {**good, "spanish": "yo trabaje"}
    write_shard(tmp_path / "shards", changed)
    with pytest.raises(UserError, match=r"a\.jsonl: sha256: expected"):
        corpus.read_corpus(tmp_path / "shards", path)

    write_shard(tmp_path / "shards", good)
    (tmp_path / "shards/b.jsonl").write_text("")
    with pytest.raises(UserError, match=r"b\.jsonl: not listed"):
        corpus.read_corpus(tmp_path / "shards", path)
    (tmp_path / "shards/b.jsonl").unlink()
    files.write_json(path, {**manifest, "shards": [*manifest["shards"], {"file": "c.jsonl", "rows": 0, "sha256": "0"}]})
    with pytest.raises(UserError, match=r"c\.jsonl: listed in .* but not there"):
        corpus.read_corpus(tmp_path / "shards", path)
    files.write_json(path, {**manifest, "counts": {"rows": 2}})
    with pytest.raises(UserError, match="key 'counts'"):
        corpus.read_corpus(tmp_path / "shards", path)
    files.write_json(path, {**manifest, "schema_version": 99})
    with pytest.raises(UserError, match="key 'schema_version': expected 1"):
        corpus.read_corpus(tmp_path / "shards", path)
