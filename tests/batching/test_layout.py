"""What a row computes, what it shares, and how a step's examples are spread over rows."""

import random

import torch

from tests.batching.helpers import trees
from trl_ext.batching.packed import Tree, first_fit, join, joined_tokens, pack, pack_joined, pack_rows


def test_a_row_computes_every_prompt_once_and_no_padding():
    row = pack(trees())
    # prompts without their last token, and each completion with it: 8+6+9 + 0+4+5 + 11+7+2
    assert row.input_ids.shape == (1, 52)
    padded = sum(2 * (len(t.prompt) + max(map(len, t.completions))) for t in trees())
    assert padded == 80
    assert row.scatter(torch.ones(len(row.scored))).sum(dim=1).tolist() == [5, 8, 3, 4, 6, 1]


def test_equal_prompts_and_equal_completions_are_computed_once():
    """All pairs of one prompt's answers a, b, c, as preference data of several answers per prompt holds them."""
    prompt, a, b, c = [1, 2, 3, 4], [10, 11], [20, 21, 22], [30]
    pairs = [Tree(prompt, [a, b]), Tree([9], [a, c]), Tree(prompt, [a, c]), Tree(prompt, [b, c])]
    joined, branch_of = join(pairs)
    assert joined == [Tree(prompt, [a, b, c]), Tree([9], [a, c])]
    assert branch_of == [0, 1, 3, 4, 0, 2, 1, 2]
    # 3 prompt tokens and 3 + 4 + 2 in its branches; 3 + 2 in those of the other prompt
    assert joined_tokens(pairs) == 17
    row = pack_joined(pairs)
    assert row.input_ids.shape == (1, 17)
    tokens = row.scatter(row.labels[row.labels != -100])
    assert [[t for t in line if t] for line in tokens.tolist()] == [a, b, a, c, a, c, b, c]
    sides = pack_joined(pairs, order=[0, 2, 4, 6, 1, 3, 5, 7]).scatter(row.labels[row.labels != -100])
    assert sides.tolist() == tokens[[0, 2, 4, 6, 1, 3, 5, 7]].tolist()


def test_gradients_of_a_completion_that_occurs_twice_add_up():
    row = pack_joined([Tree([1], [[5, 6], [7]]), Tree([1], [[5, 6], [8]])])
    values = torch.arange(4.0, requires_grad=True)  # 5, 6 │ 7 │ 8
    (row.scatter(values).sum(dim=1) * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert values.grad.tolist() == [101, 101, 10, 1000]


def examples(*lengths: tuple[str, int, int]) -> list[dict]:
    """Examples of a named prompt with a completion, both of given lengths."""
    return [
        {"name": name, "tree": Tree([ord(name)] * prompt, [[i] * completion])}
        for i, (name, prompt, completion) in enumerate(lengths)
    ]


def spread(given: list[dict], row_tokens: int) -> list[list[dict]]:
    rows = pack_rows(given, lambda example: example["tree"], row_tokens)
    assert sorted(id(e) for row in rows for e in row) == sorted(map(id, given))
    for row in rows:
        assert len(row) == 1 or joined_tokens([e["tree"] for e in row]) <= row_tokens
    return rows


def names(rows: list[list[dict]]) -> list[str]:
    return sorted("".join(sorted(example["name"] for example in row)) for row in rows)


def test_examples_of_one_prompt_are_put_side_by_side_and_counted_once():
    # 39 + 3·11 = 72 tokens for the prompt a, as much for b: each by itself would be 50, four of which fill 200
    given = examples(*[("a", 40, 10), ("b", 40, 10)] * 3)
    assert names(spread(given, 72)) == ["aaa", "bbb"]
    assert names(spread(given, 144)) == ["aaabbb"]
    assert len(spread(given, 71)) == 4  # two and one of each prompt


def test_a_prompt_too_large_for_a_row_is_split_and_its_rest_shares_a_row():
    given = examples(*[("a", 40, 10)] * 5, ("b", 30, 10))
    # 39 + 11·k ≤ 90 holds four; the fifth takes 50 and leaves 40 for b
    assert names(spread(given, 90)) == ["aaaa", "ab"]
    assert names(spread(given, 50)) == ["a"] * 5 + ["b"]
    assert names(spread(given, 1)) == ["a"] * 5 + ["b"]


def test_each_example_of_a_prompt_goes_to_the_first_group_that_holds_it():
    """The largest first, each group counted as one row; the groups are then put into rows by their sizes."""
    rng = random.Random(0)
    counts = []
    for _ in range(200):
        prompt, capacity = [7] * rng.randint(0, 6), rng.randint(1, 40)
        given = [
            {
                "tree": Tree(
                    prompt, [[rng.randint(0, 2) for _ in range(rng.randint(0, 5))] for _ in range(rng.randint(1, 3))]
                )
            }
            for _ in range(10)
        ]
        groups: list[list[dict]] = []
        for example in sorted(given, key=lambda example: -example["tree"].tokens):
            holds = (g for g in groups if joined_tokens([e["tree"] for e in (*g, example)]) <= capacity)
            if (group := next(holds, None)) is None:
                groups.append([example])
            else:
                group.append(example)
        sizes = [joined_tokens([e["tree"] for e in group]) for group in groups]
        expected = [[e for g in row for e in groups[g]] for row in first_fit(sizes, capacity)]
        assert spread(given, capacity) == expected
        counts.append(len(groups))
    assert min(counts) == 1 and sum(counts) > 600  # not all in one group


def test_copies_of_an_example_cost_nothing_and_still_part_where_one_alone_is_too_large():
    """So that halving a row that does not fit always ends with single examples."""
    (one,) = examples(("a", 40, 10))
    copies = [one, {**one}, {**one}]
    assert joined_tokens([copy["tree"] for copy in copies]) == 50
    assert names(spread(copies, 50)) == ["aaa"]
    assert names(spread(copies, 49)) == ["a", "a", "a"]


def test_random_steps_fill_rows_with_true_tokens():
    rng = random.Random(5)
    for _ in range(20):
        given = examples(*((rng.choice("abcdef"), 60, rng.randint(1, 40)) for _ in range(24)))
        total = joined_tokens([e["tree"] for e in given])
        rows = spread(given, 400)
        assert sum(joined_tokens([e["tree"] for e in row]) for row in rows) < 1.2 * total
        assert len(rows) <= -(-total // 400) + 1


def test_first_fit_fills_rows_and_loses_nothing():
    rng = random.Random(3)
    lengths = [rng.randint(40, 700) for _ in range(64)]
    bins = first_fit(lengths, 2048)
    assert sorted(i for b in bins for i in b) == list(range(64))
    assert all(sum(lengths[i] for i in b) <= 2048 for b in bins)
    assert len(bins) == -(-sum(lengths) // 2048)  # not one row more than the tokens need
    assert first_fit([5000, 10, 10], 2048) == [[0], [1, 2]]
