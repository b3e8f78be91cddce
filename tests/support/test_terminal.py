"""Text and tables for terminals and pipes."""

import io

import pytest

from trl_ext.support import terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")


def test_tables_in_a_pipe_keep_their_digits():
    pipe = io.StringIO()
    table = terminal.table("completions", *["log-ratio, nats"] * 8)
    table.add_row("chosen and ended", *["0.123456789 ± 0.987654321"] * 8)
    terminal.console(file=pipe).print(table)
    assert pipe.getvalue().count("0.123456789 ± 0.987654321") == 8 and "…" not in pipe.getvalue()


def test_lines_are_wrapped_by_words_in_terminals_only():
    sentence = "The run in runs/demo has not ended: name its newest checkpoint."
    screen, pipe = Terminal(), io.StringIO()
    for stream in (screen, pipe):
        terminal.console(file=stream).print(sentence)
    assert pipe.getvalue() == f"{sentence}\n"
    lines = screen.getvalue().splitlines()
    assert len(lines) == 3 and " ".join(" ".join(lines).split()) == sentence


@pytest.mark.parametrize(
    ("text", "options", "wrapped"),
    [
        ("one two three four five six seven", {}, "one two three four five six\nseven"),
        ("  1. one two three four five six", {}, "  1. one two three four five\n     six"),
        ("a\nb", {}, "a\nb"),
        ("  key  one two three four five six", {"indent": 7}, "  key  one two three four five\n       six"),
        ("runs/a-very-long-name-without-any-space", {}, "runs/a-very-long-name-without-any-space"),
    ],
)
def test_wrap(text, options, wrapped):
    assert terminal.wrap(text, Terminal(), **options) == wrapped
    assert terminal.wrap(text, io.StringIO(), **options) == text
