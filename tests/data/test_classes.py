"""What a row is by itself, and how a row is shown in one line."""

import pytest
from datasets import Dataset

from tests.data.rows import PAIRED_SPELLINGS, UNPAIRED_SPELLINGS, assistant, user
from trl_ext.data import classes


@pytest.mark.parametrize(
    ("spellings", "kind"), [(PAIRED_SPELLINGS, "pair, "), (UNPAIRED_SPELLINGS, "labelled answer, ")]
)
def test_every_spelling_is_told_from_one_row(spellings, kind):
    for _, rows in spellings.values():
        assert all(classes.of(row).startswith(kind) for row in rows)


def test_a_file_of_several_kinds():
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q"},
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"completion": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "chosen": "a"},
    ]
    found = classes.count(Dataset.from_list([{name: row.get(name) for name in COLUMNS} for row in rows]))
    assert found == {
        "pair, TRL's own columns, plain text": (2, (0, 3)),
        "prompt alone": (1, (1,)),
        "labelled answer, TRL's own columns, plain text": (1, (2,)),
        "not recognised": (1, (4,)),
        "answer without a label (prompt, completion)": (1, (5,)),
        "pair without its rejected answer": (1, (6,)),
    }


COLUMNS = ("prompt", "chosen", "rejected", "completion", "label")


def test_an_excerpt_is_one_line():
    row = {
        "prompt": [user("x" * 99 + "\nend")],
        "chosen": [assistant("begin\x1b[31m" + "y" * 99 + "stop")],
        "label": True,
    }
    shown = classes.excerpt(row)
    assert (
        shown.startswith("prompt '…xxx")
        and "xx end' | chosen 'begin\\x1b[31myy" in shown
        and shown.endswith("yystop'")
    )
    assert classes.excerpt({"prompt": None}) == "nothing in it"


def test_what_is_no_text_is_shown_whole_and_no_prompt_alone():
    row = {"prompt": "q", "chosen": ["a", "b"], "rejected": 3}
    assert classes.excerpt(row) == """prompt 'q' | chosen '["a", "b"]' | rejected '3'"""
    assert classes.of(row) == classes.UNKNOWN
