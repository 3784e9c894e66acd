"""A corpus of one's own: languages, tenses and persons that are not ours, by the example that the docs name."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest

from minitrain.corpus.shards import Corpus, read_corpus
from minitrain.dataset.build import build_dataset
from minitrain.params import read_params
from proofs.project import must_run

FOLDER, MANIFEST = Path("data/german-italian"), Path("data/GERMAN-ITALIAN.json")


@pytest.fixture(scope="module")
def corpus(root, tmp_path_factory) -> Corpus:
    """Made and pinned by the two commands of docs/own-corpus.md, in a folder of its own."""
    folder = tmp_path_factory.mktemp("own-corpus")
    shutil.copytree(root / "minitrain", folder / "minitrain")
    must_run(folder, sys.executable, str(root / "examples/own-corpus/german_italian.py"))
    must_run(folder, sys.executable, "-m", "minitrain.corpus", "--pin", str(FOLDER), str(MANIFEST))
    return read_corpus(folder / FOLDER, folder / MANIFEST)


# Written down by hand, not by the code: every rule of spelling once.
FORMS = {
    "du tanzt": "tu balli",
    "er arbeitet": "lui lavora",
    "ihr rechnetet": "voi calcolavate",
    "er hat fotografiert": "lui ha fotografato",
    "wir haben verkauft": "noi abbiamo venduto",
    "du suchst": "tu cerchi",
    "sie werden zahlen": "loro pagheranno",
    "du jagst": "tu cacci",
    "ich würde parken": "io parcheggerei",
    "wir danken": "noi ringraziamo",
    "er würde danken": "lui ringrazierebbe",
    "sie putzen": "loro puliscono",
    "sie hören": "loro sentono",
}


def test_forms_are_those_written_down_by_hand(corpus):
    forms = {row.text: row.spanish for row in corpus.rows.values()}
    assert {text: forms.get(text) for text in FORMS} == FORMS


def test_its_own_tenses_and_persons_become_cells(corpus):
    params = read_params()
    files, _ = build_dataset(
        dataclasses.replace(params, model=dataclasses.replace(params.model, vocab_size=128)), corpus, ""
    )
    cells = json.loads(files["cells.json"])
    tenses, persons = ({cell[cells["columns"].index(key)] for cell in cells["cells"]} for key in ("tense", "person"))
    assert len(cells["cells"]) == len(corpus.rows) == 1984
    assert tenses == {"infinitive", "present", "past", "perfect", "future", "conditional"}
    assert persons == {None, "1sg", "2sg", "3sg", "1pl", "2pl", "3pl"}
