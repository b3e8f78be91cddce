"""The key of an API is sent to it, and appears nowhere else."""

import io
import logging

import pytest

from tests.judging.api_helpers import (
    KEY,
    everything_raised,
    in_turn,
    prefers_good,
    questions,
)
from tests.judging.stub_server import fails, says, serving
from trl_ext.support.errors import UserError

pytest.importorskip("openai")


def test_the_key_is_sent_and_appears_nowhere_else(judge, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f"  {KEY}\n")
    written = io.StringIO()
    root, handler = logging.getLogger(), logging.StreamHandler(written)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with serving(in_turn(says(f"{KEY} [[FIRST]]"), fails(400, KEY), fails(429, KEY), fails(500, KEY))) as stub:
            teller = judge(stub, concurrency=1, retries=1)
            with pytest.raises(UserError) as raised:
                list(teller.verdicts(questions(4)))
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
    assert set(stub.keys) == {f"Bearer {KEY}"}
    files = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "[[FIRST]]" in files and "HTTP" in written.getvalue()
    printed = capsys.readouterr()
    told = [
        files,
        written.getvalue(),
        printed.out,
        printed.err,
        everything_raised(raised.value),
        repr(teller.settings),
    ]
    assert not [text for text in told if KEY in text]


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(judge, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with (
        serving(prefers_good) as stub,
        pytest.raises(UserError, match="OPENAI_API_KEY holds a space, a line break") as raised,
    ):
        judge(stub)
    assert key not in str(raised.value)
