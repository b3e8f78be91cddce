"""Facts of token ids against a plain Python account of what truncation does."""

import tracemalloc

import numpy as np
import pyarrow
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_ext.inspection.facts import gather
from trl_ext.inspection.findings import Findings
from trl_ext.inspection.truncation import Limits
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError

STOP = 9
ids = st.lists(st.integers(0, 9), max_size=7)
pairs = st.lists(st.tuples(ids, ids, ids), min_size=1, max_size=12)
limits = st.tuples(st.none() | st.integers(1, 9), st.booleans()).map(lambda given: Limits(*given))


def paired(rows, limit):
    columns = dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), map(list, zip(*rows, strict=True)), strict=True))
    return gather(METHODS["paired"], Dataset.from_dict(columns, features=FEATURES), limit, {STOP})


FEATURES = Dataset.from_dict({name: [[1]] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}).features


def cut(prompt, answer, limit):
    """(prompt left, answer left) as a collator leaves them, token by token."""
    marked = [("p", t) for t in prompt] + [("a", t) for t in answer]
    if limit.max_length is not None:
        marked = marked[-limit.max_length :] if limit.keep_end else marked[: limit.max_length]
    return [t for kind, t in marked if kind == "p"], [t for kind, t in marked if kind == "a"]


def ends(answer):
    return STOP in answer[-3:]


@given(pairs, limits)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_pairs(rows, limit):
    facts = paired(rows, limit)
    seen = set()
    for i, (prompt, *answers) in enumerate(rows):
        is_dropped = limit.max_length is not None and not limit.keep_end and len(prompt) >= limit.max_length
        assert facts.is_dropped[i] == is_dropped
        left = [cut(prompt, answer, limit) for answer in answers]
        for name, answer, (p, a) in zip(("chosen", "rejected"), answers, left, strict=True):
            assert facts.lengths[name][i] == len(answer) and facts.kept[name][i] == len(a)
            assert facts.cut[name][i] == len(p) + len(a)
            assert facts.flags[f"{name}_cut"][i] == (len(a) < len(answer))
        assert facts.flags["prompt_cut"][i] == any(len(p) < len(prompt) for p, _ in left)
        assert facts.flags["identical"][i] == (answers[0] == answers[1])
        assert facts.flags["identical_cut"][i] == (answers[0] != answers[1] and left[0][1] == left[1][1])
        assert facts.flags["no_eos"][i] == any(not ends(answer) for answer in answers)
        last = [len(answer) - 1 - answer[::-1].index(STOP) if STOP in answer else None for answer in answers]
        gone = [
            ends(answer)
            and not (len(answer) - len(a) if limit.keep_end else 0)
            <= place
            < (len(answer) if limit.keep_end else len(a))
            for answer, (_, a), place in zip(answers, left, last, strict=True)
        ]
        assert facts.flags["eos_lost"][i] == any(gone)
        same = (tuple(prompt), *(tuple(a) for _, a in left))
        assert facts.flags["duplicate"][i] == (not is_dropped and same in seen)
        if not is_dropped:
            seen.add(same)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=7), min_size=1, max_size=8),
    limits,
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_answers_to_imitate(rows, limit):
    tokens = [[token for token, _ in row] for row in rows]
    labels = [[token if scored else -100 for token, scored in row] for row in rows]
    facts = gather(METHODS["sft"], Dataset.from_dict({"input_ids": tokens, "labels": labels}), limit, {STOP})
    for i, row in enumerate(labels):
        left = row
        if limit.max_length is not None:
            left = row[-limit.max_length :] if limit.keep_end else row[: limit.max_length]
            assert facts.is_dropped[i] == all(label == -100 for label in left)
        assert facts.cut["completion"][i] == len(left)
        first = next((place for place, label in enumerate(row) if label != -100), len(row))
        assert (facts.lengths["prompt"][i], facts.lengths["completion"][i]) == (first, len(row) - first)


def unpaired(rows, limit=None):
    columns = dict(zip(("prompt_ids", "completion_ids", "label"), map(list, zip(*rows, strict=True)), strict=True))
    return Findings(gather(METHODS["unpaired"], Dataset.from_dict(columns), Limits(limit), {STOP}), ["<end>"])


def test_labels_duplicates_and_contradictions():
    rows = [([1], [2, STOP], True), ([1], [2, STOP], False), ([1], [2, STOP], True), ([1], [3, STOP], True)]
    found = {finding.name: finding.rows.tolist() for finding in unpaired(rows).found}
    assert found == {"contradictory": [0, 1, 2], "duplicate": [2]}
    assert unpaired(rows).labels() == (3, 1)


def test_the_order_of_rows_changes_no_count():
    rng = np.random.default_rng(0)
    rows = [
        (rng.integers(0, 9, 4).tolist(), *(rng.integers(7, 10, rng.integers(1, 4)).tolist() for _ in "cr"))
        for _ in range(2500)
    ]
    there = paired(rows, Limits(6))
    back = paired(rows[::-1], Limits(6))
    assert len(there) == 2500  # more than a batch
    for name, flag in there.flags.items():
        assert flag.sum() == back.flags[name].sum()
        if name != "duplicate":
            assert (flag == back.flags[name][::-1]).all()


SAME, LONG = ([1], [2, STOP], [2, STOP]), ([1], [2, 3, 4, STOP], [2, 3, 5, STOP])


@pytest.mark.parametrize(
    ("rows", "limit", "message"),
    [
        ([SAME, SAME], None, r"the same tokens in all 2 pairs.*`dataset_columns`"),
        (
            [SAME, LONG],
            3,
            r"identical in all 2 pairs once they are cut to 3 tokens \(`max_length`\).*Raise `max_length`",
        ),
        ([SAME, LONG], 1, r"Every training example was dropped: every prompt has 1 token \(`max_length`\) or more"),
    ],
)
def test_pairs_that_cannot_teach(rows, limit, message):
    with pytest.raises(UserError, match=message):
        Findings(paired(rows, Limits(limit)), ["<end>"]).require_teachable()


def test_pairs_that_teach_something():
    Findings(paired([SAME, LONG], Limits(4)), ["<end>"]).require_teachable()


def test_one_label_left_by_max_length():
    rows = [([1], [2], True), ([1, 2, 3], [2], False)]
    with pytest.raises(
        UserError, match=r"After prompts of 3 tokens or more.* were dropped, the only completion is desirable.*raise"
    ):
        unpaired(rows, 3).require_teachable()
    unpaired(rows, 4).require_teachable()


def test_the_summary_counts():
    said = Findings(paired([SAME, LONG, ([1] * 5, [2], [3])], Limits(4)), ["<end>"]).summary()
    assert said[0] == "Tokens (median / 95 % / longest): prompt 1 / 1 / 1, chosen 3 / 4 / 4, rejected 3 / 4 / 4."
    assert said[1].startswith("1 of 3 training examples is dropped: the prompt alone has 4 tokens")
    assert said[2] == (
        "Among 2 pairs at `max_length` 4: 1 with the chosen completion cut; 1 with the rejected completion cut; 1 with an "
        "end-of-sequence token cut off. `trl-ext data` shows them."
    )


def test_the_model_s_positions():
    facts = paired([SAME, LONG], Limits(None))
    found = {finding.name: finding for finding in Findings(facts, ["<end>"], context=4).found}
    assert (
        found["beyond_context"].rows.tolist() == [1]
        and "the 4 positions of the model" in found["beyond_context"].sentence
    )


def test_memory_is_a_few_numbers_per_example():
    rng = np.random.default_rng(0)

    def column(rows):
        offsets = np.concatenate([[0], rng.integers(5, 40, rows).cumsum()]).astype(np.int32)
        return pyarrow.ListArray.from_arrays(offsets, rng.integers(0, 99, offsets[-1], dtype=np.int32))

    rows = 50_000
    dataset = Dataset(pyarrow.table({name: column(rows) for name in FEATURES}))
    tracemalloc.start()
    facts = gather(METHODS["paired"], dataset, Limits(40), {STOP})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(facts) == rows
    assert peak < 120 * rows + 4e6  # bytes; the tokens themselves are some 270 per row
