"""A row is shown in one line."""

from tests.data.rows import assistant, user
from trl_ext.data.excerpt import excerpt


def test_an_excerpt_is_one_line():
    row = {
        "prompt": [user("x" * 99 + "\nend")],
        "chosen": [assistant("begin\x1b[31m" + "y" * 99 + "stop")],
        "label": True,
    }
    shown = excerpt(row)
    assert (
        shown.startswith("prompt '…xxx")
        and "xx end' | chosen 'begin\\x1b[31myy" in shown
        and shown.endswith("yystop'")
    )
    assert excerpt({"prompt": None}) == "empty"


def test_what_is_not_text_is_shown_whole():
    row = {"prompt": "q", "chosen": ["a", "b"], "rejected": 3}
    assert excerpt(row) == """prompt 'q' | chosen '["a", "b"]' | rejected '3'"""
