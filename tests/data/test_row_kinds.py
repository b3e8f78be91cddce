"""Every row is recognised on its own."""

import pytest
from datasets import Dataset

from tests.data.rows import PAIRED_SPELLINGS, UNPAIRED_SPELLINGS
from trl_ext.data.row_kinds import UNKNOWN, count_kinds, kind_of_row


@pytest.mark.parametrize(
    ("spellings", "kind"), [(PAIRED_SPELLINGS, "pair, "), (UNPAIRED_SPELLINGS, "labelled completion, ")]
)
def test_every_spelling_is_told_from_one_row(spellings, kind):
    for _, rows in spellings.values():
        assert all(kind_of_row(row).startswith(kind) for row in rows)


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
    found = count_kinds(Dataset.from_list([{name: row.get(name) for name in COLUMNS} for row in rows]))
    assert found == {
        "pair, TRL's own columns, plain text": (2, (0, 3)),
        "prompt only": (1, (1,)),
        "labelled completion, TRL's own columns, plain text": (1, (2,)),
        "not recognised": (1, (4,)),
        "completion without a label (prompt, completion)": (1, (5,)),
        "pair without its rejected completion": (1, (6,)),
    }


COLUMNS = ("prompt", "chosen", "rejected", "completion", "label")


def test_completions_that_are_no_text_make_no_pair_and_no_prompt_only():
    assert kind_of_row({"prompt": "q", "chosen": ["a", "b"], "rejected": 3}) == UNKNOWN
