"""`thoughts: masked`: which tokens are learned, against the character offsets of the rendered text, with Qwen3's own template."""

import numpy as np
import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.inspection.test_thoughts import ASKED, HELD, checked, qwen3, said, switched  # noqa: F401
from trl_ext.inspection import masked_thoughts, rendering, thoughts
from trl_ext.inspection.truncation import Limits
from trl_ext.methods import METHODS

END = "<|im_end|>\n"
ANSWERS = {"whole": "So." + END, "empty": "So." + END, "none": "So." + END, "open": ""}
"""The text that counts in the loss, by the completion."""


def by_offsets(tokenizer, messages, name):
    """(ids, whether each token is learned) of a whole conversation, from the offsets of its text."""
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    answer = ANSWERS[name]
    if name == "open":
        answer = whole[len(whole) :]
    assert whole.endswith(answer)
    start = max(len(whole) - len(answer), len(asked) if whole.startswith(asked) else 0)
    coded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    return coded["input_ids"], [last > max(first, start) for first, last in coded["offset_mapping"]]


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("name", HELD)
def test_demonstrations_against_the_offsets_of_the_text(qwen3, is_on, name):  # noqa: F811
    tokenizer = switched(qwen3, is_on)
    rows = [{"prompt": ASKED, "completion": said(HELD[name])}, {"prompt": ASKED, "completion": said("No.")}]
    result = checked("sft", rows, tokenizer, "masked")
    row = result.tokenised[0]
    ids, learned = by_offsets(tokenizer, [*ASKED, *said(HELD[name])], name)
    assert row["input_ids"] == ids
    assert [label != -100 for label in row["labels"]] == learned
    assert [label for label in row["labels"] if label != -100] == [
        i for i, one in zip(ids, learned, strict=True) if one
    ]
    assert result.findings.facts.is_dropped.tolist() == [name == "open", False]  # nothing is left to learn


@pytest.mark.parametrize(("kind", "names"), [("paired", ("chosen", "rejected")), ("unpaired", ("completion",))])
def test_completions_against_the_offsets_of_the_text(qwen3, kind, names):  # noqa: F811
    tokenizer = switched(qwen3, True)
    held = [("whole", "none"), ("whole", "whole"), ("empty", "open"), ("none", "empty")]
    rows = [
        {"prompt": ASKED, **{name: said(HELD[kinds[side]]) for side, name in enumerate(names)}}
        | ({} if kind == "paired" else {"label": True})
        for kinds in held
    ]
    result = checked(kind, rows, tokenizer, "masked")
    everything = checked(kind, rows, tokenizer, "all")
    for kinds, row, before in zip(held, result.tokenised, everything.tokenised, strict=True):
        for side, name in enumerate(names):
            ids, learned = by_offsets(tokenizer, [*ASKED, *said(HELD[kinds[side]])], kinds[side])
            flags = [False] * len(row["prompt_ids"]) + row[f"{name}_learned"]
            assert row["prompt_ids"] + row[f"{name}_ids"] == ids == before["prompt_ids"] + before[f"{name}_ids"]
            assert flags == learned, (kinds, name)
    assert thoughts.counts(result.findings.facts)[names[0]]["with a thought"] == 2  # they are still there
    shown = rendering.render(result.findings.facts, result.tokenised, 0, tokenizer)[names[0]]
    assert "".join(part.text for part in shown if part.role == "learned") == ANSWERS["whole"]
    assert "hm" in "".join(part.text for part in shown if part.role == "thought")


def test_thoughts_that_the_prompt_opens_or_that_come_late(qwen3):  # noqa: F811
    def learned(text, is_open=False):
        ids = qwen3(text, add_special_tokens=False)["input_ids"]
        flags = masked_thoughts.learned(ids, is_open, qwen3)
        return qwen3.decode([token for token, one in zip(ids, flags, strict=True) if one])

    assert learned("hm\n</think>\n\nSo.", is_open=True) == "So."
    assert learned("hm and hm", is_open=True) == ""
    assert learned("hm\n</think>\n\nSo.") == "So."
    assert learned("Yes. <think>later</think> So.") == "Yes. So."
    assert learned("So.") == "So." and learned("") == ""
    assert learned("[THINK]émoji 🙂[/THINK]Größe") == "Größe"


def test_a_token_with_white_space_and_the_first_word_is_learned():
    coder = Tokenizer(models.BPE())
    coder.pre_tokenizer, coder.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    coder.train_from_iterator(["<think>hm</think> So."] * 9, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=coder)
    ids = tokenizer("<think>hm</think> So.")["input_ids"]
    flags = masked_thoughts.learned(ids, False, tokenizer)
    assert tokenizer.decode([token for token, one in zip(ids, flags, strict=True) if one]) == " So."


def test_a_demonstration_whose_answer_is_cut_teaches_nothing():
    marked = Dataset.from_list([{"labels": [-100, -100, 5, 6]}, {"labels": [4, -100, -100, -100]}])
    limits = Limits(2, is_cut=True, keep_end=False, drops_the_unscored=True)
    method = METHODS["sft"]
    assert masked_thoughts.teaches_nothing(method, marked, limits).tolist() == [True, False]
    assert masked_thoughts.teaches_nothing(method, marked, limits._replace(keep_end=True)).tolist() == [False, True]
    assert masked_thoughts.teaches_nothing(method, marked, limits._replace(max_length=None)).tolist() == [False, False]
    assert not masked_thoughts.teaches_nothing(METHODS["paired"], marked, limits).any()
    assert isinstance(masked_thoughts.teaches_nothing(method, marked, limits), np.ndarray)
