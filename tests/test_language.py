"""American spelling in everything that is read, as in Keras's own names (normalize, quantize)."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ISE = """author canonical capital categor character custom digit discret emphas factor familiar final general initial linear local
maxim memor minim modern neutral normal optim organ parallel penal priorit quant random real recogn regular serial special stabil
standard summar symbol synchron token util vector visual"""
OUR = "arm behavi col fav flav harb hon lab neighb rum vap vig"
DOUBLED = "cancell channell equall fuell labell modell signall totall travell unravell"
WHOLE = """afterwards amongst analyse analysed analysing artefact artefacts backwards burnt catalogue catalogued centre centred
centres dialogue downwards enrol fibre fibres forwards fulfil fulfils grey greyed instal inwards judgement learnt licence licences
litre litres metre metres mould offence outwards practise practised programme programmed programmes sceptical skilful spelt
towards upwards whilst"""
LEFT = """normalize raised promise four your hour finalist programming fulfill precise exercise wise realism modeling channel
specialist advertised otherwise"""
FOUND = "normalise dequantised colour neighbouring artefact Behaviour labelled optimiser towards"


def any_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


BRITISH = re.compile(rf"\w*{any_of(ISE)}is(?:e[ds]?|ers?|ing|ations?|able)|{any_of(OUR)}our(?:s|ed|ing|ite|able|al|hood)?"
                     rf"|{any_of(DOUBLED)}(?:ed|ing|er)|{any_of(WHOLE)}")
READ = {".c", ".cff", ".cpp", ".css", ".go", ".h", ".hpp", ".html", ".java", ".js", ".md", ".mjs", ".py", ".pyi", ".rs", ".toml", ".ts",
        ".yml"}
OURS = {"tests/test_language.py"}


def texts(*suffixes: str) -> list[tuple[str, str]]:
    """The text files of the clone, or of its main folders where there is no git."""
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        folders = ("exporter", "docs", "schemas", "tests")
        names = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*")]
    found = [name for name in names if name not in OURS and (Path(name).suffix in (suffixes or READ) or name.endswith(".schema.json"))]
    return [(name, (ROOT / name).read_text(encoding="utf-8")) for name in found if (ROOT / name).is_file()]


def british(text: str) -> set[str]:
    """The words, without names of functions: `concurrent.futures` spells them in both ways."""
    return {word for word in set(re.findall(r"(?<![a-z])[a-z]+(?![a-z(])", text.lower())) if BRITISH.fullmatch(word)}


def test_spelling_is_american():
    found = [f"{name}: {', '.join(sorted(words))}" for name, text in texts() if (words := british(text))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("word", FOUND.split())
def test_british_forms_are_found(word):
    assert british(f"the {word}, here {word}_of") == {word.lower()}


@pytest.mark.parametrize("word", LEFT.split())
def test_other_words_are_left(word):
    assert not british(word)
