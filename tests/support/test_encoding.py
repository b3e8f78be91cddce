"""Output in an encoding that lacks characters does not crash, and stays readable."""

import argparse
import io
import json
import os
import subprocess
import sys

import pytest

from tests.recipe.helpers import write
from trl_ext.cli import VERBS, main
from trl_ext.cli.values import text
from trl_ext.support import encoding
from trl_ext.trainers.common.console import say


class Streams:
    """Standard output and standard error in another encoding, as in a Windows terminal or under `PYTHONIOENCODING`."""

    def __init__(self, monkeypatch, name):
        self.out, self.err = (io.TextIOWrapper(io.BytesIO(), encoding=name) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", self.out)
        monkeypatch.setattr(sys, "stderr", self.err)

    def read(self):
        for stream in (self.out, self.err):
            stream.flush()
        return self.out.buffer.getvalue(), self.err.buffer.getvalue()


def test_the_streams_of_python_crash(monkeypatch):
    """What is prevented here."""
    streams = Streams(monkeypatch, "ascii")
    with pytest.raises(UnicodeEncodeError):
        print("a → b")
        streams.read()


def test_characters_of_formulas_become_words(monkeypatch):
    streams = Streams(monkeypatch, "ascii")
    encoding.write_every_character()
    print("−log σ(β·(ℓ_w − ℓ_l)) → 1 ± ½")
    print("你 é λόγος \ud800 😀")
    assert streams.read()[0].decode().splitlines() == [
        "-log sigma(beta*(l_w - l_l)) -> 1 +/- 1/2",
        r"\u4f60 \xe9 \u03bb\u03cc\u03b3\u03bf\u03c2 \ud800 \U0001f600",  # words of the user's keep their codes
    ]


def test_characters_that_an_encoding_has_stay(monkeypatch):
    streams = Streams(monkeypatch, "cp1252")
    encoding.write_every_character()
    print("1 ± 2 – “3” → β")
    assert streams.read()[0] == "1 ± 2 – “3” -> beta\n".encode("cp1252")


@pytest.mark.parametrize("name", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "words",
    [
        ["help"],
        ["losses"],
        ["losses", "kto"],
        ["losses", "--json"],
        ["recipes"],
        ["validate", "{recipe}"],
        ["data", "{recipe}"],
        ["data", "{recipe}", "--json"],
        ["plan", "{recipe}"],
        ["cache"],
        ["validate", "→ü\udcff.yaml"],
        ["Überprüfen"],
        *(["help", verb] for verb in VERBS),
    ],
    ids=lambda words: " ".join(words).encode("ascii", "replace").decode(),
)
def test_every_verb_without_a_model(words, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    pair = {"prompt": "Wie war’s in Zürich? 😀", "chosen": "schön → β", "rejected": "übel"}
    path.write_text(json.dumps(pair, ensure_ascii=False) + "\n", encoding="utf-8")
    recipe = write(tmp_path, "", f"model_name_or_path: embedded\ndataset_name: {path}\nuse_peft: true\n")
    streams = Streams(monkeypatch, name)
    code = main([word.format(recipe=recipe) for word in words])
    out, err = streams.read()
    assert code == (2 if err else 0) and (out or err)
    if "--json" in words:
        out.decode("ascii")
        assert json.loads(out)


def test_lines_of_a_trainer(monkeypatch):
    streams = Streams(monkeypatch, "ascii")
    from types import SimpleNamespace

    encoding.write_every_character()
    say(SimpleNamespace(is_main_process=True), "step 1: π → 0.5")
    assert streams.read()[0] == b"step 1: pi -> 0.5\n"


def test_json_keeps_its_values(monkeypatch):
    Streams(monkeypatch, "ascii")
    assert json.loads(encoding.as_json("→ β ü")) == "→ β ü" and encoding.as_json("→").isascii()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert encoding.as_json("→") == '"→"'


def test_texts_that_the_locale_cannot_decode():
    assert text("Zürich".encode().decode("ascii", "surrogateescape")) == "Zürich" == text("Zürich")
    with pytest.raises(argparse.ArgumentTypeError, match="is not text in UTF-8"):
        text(b"Z\xfcrich".decode("ascii", "surrogateescape"))


def test_questions_in_another_encoding_are_an_error():
    from trl_ext.chat.session import _decoded
    from trl_ext.support.errors import UserError

    questions = io.TextIOWrapper(io.BytesIO("Zürich?\n".encode()), encoding="ascii")
    with pytest.raises(UserError, match=r"not text in ascii: byte 0xc3 .*PYTHONIOENCODING"):
        list(_decoded(questions))


def test_a_process_with_another_encoding(tmp_path):
    """The whole program, as `PYTHONIOENCODING=ascii trl-ext losses > file` runs it."""
    environment = {"PYTHONIOENCODING": "ascii", "PATH": os.environ["PATH"]}
    environment |= {name: value for name, value in os.environ.items() if name == "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-m", "trl_ext", "losses"], env=environment, capture_output=True)
    assert done.returncode == 0 and b"log sigma(" in done.stdout and done.stdout.isascii()
