"""Lengths, spread and ties of a set of pairs, counted by hand."""

import pytest

from trl_ext.pairing import facts, report
from trl_ext.pairing.group import Completion, Group
from trl_ext.pairing.rows import choose, rows
from trl_ext.pairing.settings import Selection


def group(prompt, *completions):
    return Group(prompt, [Completion(text, tokens, ended) for text, tokens, ended in completions])


GROUPS = [
    (group("p", ("a", 4, True), ("b", 8, True), ("c", 2, True), ("a", 4, True)), [0.5, 1.0, 0.0, 0.5]),
    (group("q", ("d", 6, True), ("e", 9, True), ("f", 64, False), ("g", 3, True)), [1.0, 0.0, 2.0, None]),
    (group("r", ("h", 5, True), ("i", 5, True)), [1.0, 1.0]),
]


def test_pairs():
    scored = [choose(*each, Selection()) for each in GROUPS]
    assert rows(scored) == [
        {"prompt": "p", "chosen": "b", "rejected": "c", "score_chosen": 1.0, "score_rejected": 0.0},
        {"prompt": "q", "chosen": "d", "rejected": "e", "score_chosen": 1.0, "score_rejected": 0.0},
    ]
    assert [row["margin"] for row in rows(scored, write_margin=True)] == [1.0, 1.0]
    found = facts.measure(scored)
    assert (found["prompts"], found["prompts_with_rows"], found["rows"]) == (3, 2, 2)
    assert found["without"] == {"all scores are equal": 1}
    assert (found["completions"], found["truncated"], found["unscored"], found["repeated"]) == (10, 1, 1, 1)
    # Means within prompts: ½, 1, 1.
    assert found["score"]["value"] == pytest.approx(2.5 / 3)
    # Deviations: of ½, 1, 0, ½: √(½/3); of 1, 0, 2: 1; of 1, 1: 0.
    assert found["spread"]["value"] == pytest.approx(((0.5 / 3) ** 0.5 + 1 + 0) / 3)
    assert found["range"]["value"] == pytest.approx((1 + 2 + 0) / 3)
    assert found["margin"]["value"] == 1
    # 8 − 2 = 6 and 6 − 9 = −3: mean 1.5, standard error 4.5.
    tokens = found["tokens"]
    assert (tokens["better"]["value"], tokens["worse"]["value"], tokens["difference"]["value"]) == (7, 5.5, 1.5)
    assert tokens["difference"]["high"] == pytest.approx(1.5 + 1.959964 * 4.5, abs=1e-4)


def test_all_pairs_of_a_prompt_count_as_one_prompt():
    found = facts.measure([choose(*each, Selection(select="all")) for each in GROUPS])
    assert found["rows"] == 3 + 1
    # Pairs of p: b–a, b–c, a–c with lengths 8–4, 8–2, 4–2, mean difference 4; of q: −3.
    assert found["tokens"]["difference"]["value"] == pytest.approx((4 - 3) / 2)
    # Margins ½, 1, ½ of p: ⅔; 1 of q.
    assert found["margin"]["value"] == pytest.approx((2 / 3 + 1) / 2)


def test_labels():
    selection = Selection(labelled=True, threshold=1.0, keep_truncated=True)
    scored = [choose(*each, selection) for each in GROUPS]
    found = facts.measure(scored)
    assert [row["label"] for row in rows(scored)] == [False, True, False, True, False, True, True, True]
    assert (found["rows"], found["desirable"], found["without"]) == (8, 5, {})
    # p: 8 − (4 + 2)/2; q: (6 + 64)/2 − 9; r has no undesirable one.
    assert found["tokens"]["difference"]["value"] == pytest.approx((5 + 26) / 2)


def test_conversations_get_messages():
    prompt = [{"role": "user", "content": "p"}]
    (row,) = rows([choose(group(prompt, ("a", 1, True), ("b", 1, True)), [0.0, 1.0], Selection())])
    assert row["prompt"] == prompt and row["chosen"] == [{"role": "assistant", "content": "b"}]


def test_a_length_bias_is_reported():
    longer = [(group(str(i), ("a", 20 + i, True), ("b", 10, True)), [1.0, 0.0]) for i in range(5)]
    said = report.sentences(
        {"found": facts.measure([choose(*each, Selection()) for each in longer]), "selection": vars(Selection())}
    )
    assert "Tokens: chosen 22.0 ± 1.4, rejected 10.0, difference +12.0 ± 1.4." in said
    assert any(line.startswith("Length bias: chosen completions are longer") for line in said)
    even = facts.measure([choose(*each, Selection()) for each in GROUPS])
    assert not any("bias" in line for line in report.sentences({"found": even, "selection": vars(Selection())}))
