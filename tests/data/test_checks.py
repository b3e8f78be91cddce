"""What is counted, what is refused, and that neither depends on caches, order of calls or size."""

import random
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl.data_utils import unpair_preference_dataset

from tests.data.rows import CONVERSATIONAL, PAIRED_SPELLINGS, PLAIN, assistant, user
from trl_ext import data, losses
from trl_ext.data.formats import recognise
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Sample
from trl_ext.support.errors import UserError


def test_nothing_usable_is_refused_with_the_reasons():
    rows = [{"prompt": "q", "chosen": None, "rejected": "b"}] * 3 + [{"prompt": None, "chosen": "a", "rejected": "b"}]
    with pytest.raises(UserError, match=r"none of 4 rows can be used.* 4 rows: a required value is missing"):
        data.load(Dataset.from_list(rows))
    with pytest.raises(UserError, match="none of 4 rows"):
        data.load(Dataset.from_list(rows), training=False)


def test_rows_keep_the_numbers_they_had():
    same, broken = {"prompt": "q", "chosen": " a", "rejected": " a"}, {"prompt": "q", "chosen": None, "rejected": "b"}
    report = data.load(Dataset.from_list([broken, PLAIN[0], same, broken, same, PLAIN[1], *[same] * 9])).report
    assert report.kept.tolist() == [1, 2, *range(4, 15)]
    assert report.examples == {Reason.NULL.value: (0, 3), Note.IDENTICAL.value: (2, 4, 6)}
    single = data.unpair(data.load(Dataset.from_list([broken, PLAIN[0], {**PLAIN[1], "rejected": ""}]))).report
    assert single.kept.tolist() == [1, 1, 2, 2] and single.examples[Note.EMPTY_COMPLETION.value] == (2,)


def test_all_pairs_identical_is_refused_and_some_are_counted():
    same = {"prompt": "q", "chosen": " a", "rejected": " a"}
    with pytest.raises(UserError, match="chosen and rejected are identical in all 2 pairs"):
        data.load(Dataset.from_list([same, same]))
    report = data.load(Dataset.from_list([same, *PLAIN])).report
    assert report.notes == {Note.IDENTICAL.value: 1}


def test_one_row_is_called_the_only_one():
    same = {"prompt": "q", "chosen": " a", "rejected": " a"}
    with pytest.raises(UserError, match="are identical in the only pair, so"):
        data.load(Dataset.from_list([same]))
    with pytest.raises(UserError, match="not even the only row can be used"):
        data.load(Dataset.from_list([same | {"chosen": None}]))
    with pytest.raises(UserError, match="the only completion is desirable, but losses"):
        data.load(Dataset.from_list([{"prompt": "q", "completion": "a", "label": True}]))


def test_the_docs_name_the_losses_that_learn_from_identical_answers():
    logps, ref, lens = torch.tensor([[-12.0, -7.0], [-11.0, -9.0], [10.0, 6.0]]).double()
    learning = set()
    for name in losses.available():
        loss = losses.get(name)
        if loss.paired:
            answer = logps.clone().requires_grad_()
            # A gold completion is no better than the others, margins of equal rewards are 0, and a KL depends on the policy.
            known = {"logps": answer, "lens": lens, "margin": torch.zeros_like(ref), "kl": answer.square()}
            inputs = {key: ref if key.startswith("ref_") else known[key.rpartition("_")[2]] for key in loss.inputs}
            (gradient,) = torch.autograd.grad(loss(state=losses.describe(name).state, **inputs).losses.sum(), answer)
            learning |= {name} if gradient.abs().max() > 1e-9 else set()
    row = next(
        line
        for line in (Path(__file__).parents[2] / "docs" / "data.md").read_text().splitlines()
        if line.startswith("| chosen and rejected the same")
    )
    assert learning == set(re.findall(r"`(\w+)`", row))


def test_all_answers_empty_is_refused():
    rows = [{"prompt": "q", "completion": " ", "label": label} for label in (True, False)]
    with pytest.raises(UserError, match="the completion is empty in all 2 rows"):
        data.load(Dataset.from_list(rows))


def test_empty_parts_are_counted():
    rows = [{"prompt": "", "chosen": "a", "rejected": "\n"}, {"prompt": "q", "chosen": "", "rejected": "b"}]
    assert data.load(Dataset.from_list(rows)).report.notes == {
        Note.EMPTY_PROMPT.value: 1,
        Note.EMPTY_REJECTED.value: 1,
        Note.EMPTY_CHOSEN.value: 1,
    }


def test_broken_messages_are_dropped_one_by_one(write):
    good = CONVERSATIONAL[0]
    rows = [
        good,
        {**good, "chosen": []},
        {**good, "chosen": [assistant(None)]},
        {**good, "chosen": [{"role": None, "content": "x"}]},
        {**good, "rejected": [user("x")]},
        {**good, "prompt": None},
        {**good, "prompt": []},
        {**good, "prompt": [None]},
    ]
    for source in (Dataset.from_list(rows), write("p.jsonl", rows)):
        dataset, report = data.load(source)
        assert dataset.to_list() == [good]
        assert sum(dropped.rows for dropped in report.dropped.values()) == 7


def test_values_of_other_types_are_dropped(write):
    rows = [
        *PLAIN,
        {"prompt": "q", "chosen": 5, "rejected": "b"},
        {"prompt": "q", "chosen": {"a": 1}, "rejected": "b"},
    ]
    dataset, report = data.load(write("p.jsonl", rows))
    assert dataset.to_list() == PLAIN
    assert {reason: dropped.rows for reason, dropped in report.dropped.items()} == {Reason.NOT_TEXT.value: 2}


def test_unpair_has_the_rows_of_trls_and_says_so():
    for rows in (PLAIN, CONVERSATIONAL):
        given = Dataset.from_list(rows)
        dataset, report = data.unpair(given)
        # With one pair to a batch, TRL's order is ours: the two answers of a pair side by side.
        trl = unpair_preference_dataset(given, batch_size=1)
        assert dataset.to_list() == trl.select_columns(dataset.column_names).to_list()
        assert (report.desirable, report.undesirable, report.rows_out) == (2, 2, 4)
        assert "2 pairs split into a desirable and an undesirable completion each, 4 completions" in str(report)
        again = data.unpair(data.Loaded(dataset, report))
        assert again.dataset is dataset


def test_unpair_keeps_what_was_said_of_the_pairs():
    rows = [*PAIRED_SPELLINGS["hh"][1], {"chosen": None, "rejected": "x"}]
    report = data.unpair(data.load(Dataset.from_list(rows))).report
    assert "1 of 3 rows dropped" in str(report) and "4 completions" in str(report)


def test_the_same_content_has_the_same_hash_however_it_is_stored(write):
    given = [write("a.jsonl", CONVERSATIONAL), Dataset.from_list(CONVERSATIONAL)]
    given += [write(f"{i}.jsonl", rows) for i, (_, rows) in enumerate(PAIRED_SPELLINGS.values())]
    assert len({data.load(source).report.content for source in given}) == 1
    assert (
        data.load(Dataset.from_list(CONVERSATIONAL[::-1])).report.content
        != data.describe(Dataset.from_list(CONVERSATIONAL)).content
    )


def test_a_second_load_reads_the_cache_and_counts_the_same(write, monkeypatch):
    rows = [*PAIRED_SPELLINGS["hh"][1], {"chosen": None, "rejected": "x"}]
    path = write("p.jsonl", rows)
    first = data.load(path)
    calls = []
    from trl_ext.data import convert

    monkeypatch.setattr(convert, "_convert_batch", lambda *_, **__: calls.append(1))
    second = data.load(path)
    assert not calls
    assert second.report == first.report
    assert second.dataset._fingerprint == first.dataset._fingerprint
    assert second.dataset.to_list() == first.dataset.to_list()


def test_rows_that_need_changing_after_the_sampled_ones_are_found():
    # 1,000 rows that are right already, and one between the sampled ones whose answers repeat the prompt.
    rows = [CONVERSATIONAL[0]] * 1000
    q, g, b = user("q"), assistant("g"), assistant("b")
    rows[500] = {"prompt": [q], "chosen": [q, g], "rejected": [q, b]}
    dataset, report = data.load(Dataset.from_list(rows))
    assert dataset[500] == {"prompt": [q], "chosen": [g], "rejected": [b]}
    assert report.rows_out == 1000


def test_words_in_are_words_out():
    """Random conversations in random formats: no word is lost, added or moved across the prompt's end."""
    rng = random.Random(0)
    alphabet = [
        "a",
        "Bee",
        "é",
        "😀",
        "漢字",
        "\n",
        "  ",
        "\n\n",
        "Human",
        "Assistant:",
        "[{",
        "'role'",
        '"',
        "None",
        "0",
    ]

    def text():
        words = [rng.choice(alphabet) for _ in range(rng.randint(1, 6))]
        return " ".join([*words, rng.choice(["x", "y."])])

    for _ in range(100):
        prompt = [m for _ in range(rng.randint(0, 2)) for m in (user(text()), assistant(text()))] + [user(text())]
        good, bad = text(), text()
        for format, row in _spelt(prompt, good, bad):
            match = recognise(Sample(tuple(row), [row]))
            assert match is not None and match.format == format, row
            ((pair,), _) = match.pairs({name: row[name] for name in match.columns})
            result = match.apply(pair, set())
            assert said(result["prompt"]) == said(prompt)
            assert said(result["chosen"]) == good.split() and said(result["rejected"]) == bad.split()


def _spelt(prompt, good, bad):
    """(format, row) of the same pair in the formats that can hold a conversation of several turns."""
    shares = [{"from": "human" if m["role"] == "user" else "gpt", "value": m["content"]} for m in prompt]
    yield "trl", {"prompt": prompt, "chosen": [assistant(good)], "rejected": [assistant(bad)]}
    yield "trl", {"chosen": [*prompt, assistant(good)], "rejected": [*prompt, assistant(bad)]}
    yield (
        "ultrafeedback",
        {
            "prompt": prompt[0]["content"],
            "chosen": [*prompt, assistant(good)],
            "rejected": [*prompt, assistant(bad)],
        },
    )
    answers = ({"from": "gpt", "value": good}, {"from": "gpt", "value": bad})
    yield "sharegpt", {"conversations": shares, "chosen": answers[0], "rejected": answers[1]}
    texts = [m["content"] for m in prompt] + [good, bad]
    if not any(re.search(r"\n\n(Human|Assistant):", text) for text in texts):
        told = "".join(f"\n\n{'Human' if m['role'] == 'user' else 'Assistant'}: {m['content']}" for m in prompt)
        yield "hh", {"chosen": f"{told}\n\nAssistant: {good}", "rejected": f"{told}\n\nAssistant: {bad}"}
    if len(prompt) == 1:
        yield "orca", {"question": prompt[0]["content"], "chosen": good, "rejected": bad}
        yield "alpaca", {"instruction": prompt[0]["content"], "input": "", "output": [good, bad]}


def said(messages):
    return [word for message in messages for word in message["content"].split()]


def test_random_junk_is_dropped_or_read_but_never_a_crash():
    rng = random.Random(1)

    def junk(depth=0):
        kinds = [
            None,
            True,
            -1,
            3.5,
            float("nan"),
            "",
            "text",
            "\n\nHuman: a\n\nAssistant: b",
            "[{'role': 1}]",
            "x" * 9999,
        ]
        if depth < 3 and rng.random() < 0.5:
            keys = ("role", "content", "from", "value", "tool_calls", "x")
            if rng.random() < 0.5:
                return [junk(depth + 1) for _ in range(rng.randint(0, 3))]
            return {rng.choice(keys): junk(depth + 1) for _ in range(rng.randint(0, 3))}
        return rng.choice(kinds)

    places = [
        "prompt",
        "chosen",
        "rejected",
        "completion",
        "label",
        "messages",
        "conversations",
        "instruction",
        "input",
    ]
    places += ["output", "question", "system", "history", "kto_tag"]
    several = ["prompt", "messages", "input", "history", "context", "completions", "scores", "choice", "response_a"]
    several += ["response_b", "winner", "score_a", "score_b", "preferred_output", "non_preferred_output"]
    several += ["rejected_response", "chosen_response"]
    read = 0
    for i in range(10000):
        row = {place: junk() for place in rng.sample(several if i % 2 else places, rng.randint(2, 6))}
        match = recognise(Sample(tuple(row), [row]))
        if match is None:
            continue
        try:
            pairs, _ = match.pairs(row)
            results = [match.apply(pair, set()) for pair in pairs]
        except Drop:
            continue
        read += 1
        assert all(set(match.outputs) <= set(result) for result in results)
    assert read > 20  # the test does reach the rows that are read


def test_public_names_and_light_import():
    import subprocess
    import sys

    code = (
        "import sys, trl_ext.data as d, trl_ext.data.formats;"
        "heavy = {'torch', 'datasets', 'trl', 'transformers', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy; assert d.FORMATS[0] == 'auto' and 'hh' in d.FORMATS;"
        "from trl_ext.data import load, describe, splits, require_teachable; assert callable(load)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
