"""Many completions of a prompt: which pairs are made of them, and what is counted. The expected pairs are written by hand."""

import json

import pytest
from datasets import Dataset

from trl_ext import data
from trl_ext.data.formats.pairing import Pairing
from trl_ext.data.formats.row_outcome import Reason
from trl_ext.data.recognise_file import first_pairs, recognise_file
from trl_ext.support.errors import UserError

RATED = [  # (completion, score)
    [("a", 5), ("b", 3), ("c", 3), ("d", 0)],
    [("e", 2), ("f", 2)],
    [("g", 1), ("h", None), ("i", 1.5)],
    [("j", 4)],
]
ROWS = [
    {"prompt": f"q{n}", "responses": [text for text, _ in row], "scores": [score for _, score in row]}
    for n, row in enumerate(RATED)
]


def pairs(source, **pairing):
    dataset, report = data.load(source, pairing=Pairing(**pairing))
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in dataset], report


def test_best_and_worst():
    found, report = pairs(Dataset.from_list(ROWS))
    assert found == [("q0", "a", "d"), ("q2", "i", "g")]
    assert {reason: gone.rows for reason, gone in report.dropped.items()} == {
        Reason.TIE.value: 1,
        Reason.TOO_FEW_OUTPUTS.value: 1,
    }
    assert report.kept.tolist() == [0, 2] and report.rows_in == 4
    assert report.sentences()[1] == (
        "2 pairs of 2 rows: the best and the worst completion of each row (`dataset_pairs: best_worst`)."
    )


def test_every_two_completions_whose_scores_differ():
    found, report = pairs(Dataset.from_list(ROWS), how="all")
    of_first = ["ab", "ac", "ad", "bd", "cd"]  # not bc: both have 3
    assert found == [("q0", *two) for two in of_first] + [("q2", "i", "g")]
    assert report.kept.tolist() == [0, 0, 0, 0, 0, 2] and report.left_out == 1
    assert report.sentences()[1] == (
        "6 pairs of 2 rows: every two completions of a row (`dataset_pairs: all`); 1 pair with equal scores is left out."
    )


def test_a_margin_leaves_out_pairs_and_rows():
    found, report = pairs(Dataset.from_list(ROWS), how="all", margin=2)
    assert found == [("q0", *two) for two in ("ad", "bd", "cd")]  # 5, 3 and 3 apart; ab and ac are exactly 2 apart
    assert report.left_out == 3
    assert report.dropped[Reason.TIE.value].rows == 1 and report.dropped[Reason.WITHIN_MARGIN.value].rows == 1
    assert "`dataset_pair_margin: 2`); 3 pairs whose scores differ by 2 or less are left out." in report.sentences()[1]
    found, _ = pairs(Dataset.from_list(ROWS), margin=0.4)
    assert found == [("q0", "a", "d"), ("q2", "i", "g")]


def test_a_margin_of_two_rated_responses():
    rows = [
        {"prompt": "q", "response_a": "a", "response_b": "b", "score_a": first, "score_b": second}
        for first, second in ((1, 5), (3, 2), (4, 4))
    ]
    found, report = pairs(Dataset.from_list(rows), margin=1)
    assert found == [("q", "b", "a")]
    assert {reason: gone.first for reason, gone in report.dropped.items()} == {
        Reason.WITHIN_MARGIN.value: 1,
        Reason.TIE.value: 2,
    }
    signed = [
        {"prompt": "q", "response1": "a", "response2": "b", "overall_preference": preference}
        for preference in (-3, -1, 0, 1, 2)
    ]
    assert pairs(Dataset.from_list(signed))[0] == [("q", *two) for two in ("ab", "ab", "ba", "ba")]
    assert pairs(Dataset.from_list(signed), margin=1)[0] == [("q", "a", "b"), ("q", "b", "a")]


def test_a_sorted_list_of_outputs_is_a_ranking():
    rows = [{"instruction": "q", "output": ["a", "b", "c"]}]
    dataset, _ = data.load(Dataset.from_list(rows), pairing=Pairing("all"))
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in dataset] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]


@pytest.mark.parametrize("name", ["r.jsonl", "r.csv", "r.parquet", "r.jsonl.gz"])
def test_lists_in_every_kind_of_file(name, write):
    rows = (
        ROWS
        if not name.endswith("csv")
        else [{k: json.dumps(v) if k != "prompt" else v for k, v in r.items()} for r in ROWS]
    )
    path = write(name, rows)
    found, report = pairs(path, how="all")
    assert len(found) == 6 and report.rows_used == 2
    if not name.endswith("parquet"):
        assert recognise_file(path).format == "ranked"
        assert first_pairs(path, None, "auto", Pairing("all")) == (
            "of the first 4 rows, 6 pairs of 2 rows: every two completions of a row (`dataset_pairs: all`); 1 pair with equal "
            "scores is left out; 2 rows without a pair"
        )


def test_a_folder_and_a_stream(write, tmp_path):
    write("set/a.jsonl", ROWS[2:])
    write("set/b.jsonl", ROWS[:2])
    assert len(pairs(tmp_path / "set", how="all")[0]) == 6
    stream = data.load(tmp_path / "set" / "b.jsonl", streaming=True, pairing=Pairing("all")).dataset
    assert [row["chosen"] + row["rejected"] for row in stream] == ["ab", "ac", "ad", "bd", "cd"]


def test_columns_that_are_passed_on_are_repeated():
    tools = ['[{"name": "f"}]', '[{"name": "g"}]', "", ""]
    dataset, _ = data.load(Dataset.from_list([row | {"tools": t} for row, t in zip(ROWS, tools, strict=True)]),
                           pairing=Pairing("all"))  # fmt: skip
    assert dataset["tools"][:] == [tools[0]] * 5 + [""]


def test_as_labelled_completions_and_as_demonstrations(write):
    single = data.unpair(data.load(Dataset.from_list(ROWS), pairing=Pairing("all"))).dataset
    assert len(single) == 12 and single["completion"][:4] == ["a", "b", "a", "c"]
    from trl_ext.data import plain_data
    from trl_ext.data.demonstrations import DEMONSTRATIONS

    best = plain_data.load(write("r.jsonl", ROWS), DEMONSTRATIONS).dataset
    assert best["completion"][:] == ["a", "i"]


def test_broken_rankings_are_dropped_one_by_one():
    rows = [
        {"prompt": "q", "responses": ["a", "b"], "scores": [1, 2, 3]},
        {"prompt": "q", "responses": None, "scores": [1, 2]},
        {"prompt": "q", "responses": ["a", None, "c"], "scores": [1, 9, 3]},
    ]
    dataset, report = data.load(Dataset.from_list(rows))
    assert (dataset["chosen"][:], dataset["rejected"][:]) == (["c"], ["a"])
    assert [(text, gone.first) for text, gone in report.dropped.items()] == [
        (Reason.NULL.value, 1),
        (Reason.UNEQUAL_LISTS.value, 0),
    ]


def test_a_choice_is_the_position_of_the_best():
    rows = [{"prompt": "q", "summaries": ["a", "b", "c"], "choice": choice} for choice in (1, 3, "x", None)]
    for row in rows:
        row["choice"] = None if row["choice"] is None else str(row["choice"])
    found, report = pairs(Dataset.from_list(rows), how="all")
    assert found == [("q", "b", "a"), ("q", "b", "c")]
    assert report.dropped[Reason.BAD_CHOICE.value].rows == 2
    with pytest.raises(UserError, match=r"has no scores.*`dataset_pair_margin: 1` would have no effect"):
        pairs(Dataset.from_list(rows), margin=1)


def test_the_settings_are_refused_where_they_would_do_nothing(write):
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    with pytest.raises(
        UserError, match=r"`dataset_pairs: all` would have no effect. It was read as TRL's own columns"
    ):
        pairs(Dataset.from_list(rows), how="all")
    with pytest.raises(UserError, match="`dataset_pairs: all` and `dataset_pair_margin: 2` would have no effect"):
        recognise_file(write("p.jsonl", rows), pairing=Pairing("all", 2))


def test_columns_without_a_prompt_are_not_cut_into_one():
    """Two responses that begin alike are not a prompt."""
    rows = [{"ask": {"text": "q"}, "response_a": "It is so", "response_b": "It is not", "winner": "a"}]
    with pytest.raises(UserError, match="are not recognised"):
        data.load(Dataset.from_list(rows))


def test_the_cache_knows_the_pairing(write):
    path = write("r.jsonl", ROWS)
    assert [len(pairs(path, **how)[0]) for how in ({}, {"how": "all"}, {"how": "all", "margin": 2}, {})] == [
        2,
        6,
        3,
        2,
    ]
