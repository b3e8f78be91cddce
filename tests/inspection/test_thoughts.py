"""Thoughts in completions: counts and loss masks, against rows rendered by transformers with Qwen3's own template."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, KTOConfig, SFTConfig, chat_template_utils

from trl_ext import demo
from trl_ext.data import thoughts as text
from trl_ext.data.examples import Examples
from trl_ext.data.report import Loaded
from trl_ext.inspection import thoughts
from trl_ext.inspection.check import check
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.methods import METHODS
from trl_ext.model_files.template_defaults import set_defaults

ASKED = [{"role": "user", "content": "Why?"}]
HELD = {
    "whole": "<think>\nhm\n</think>\n\nSo.",
    "empty": "<think>\n\n</think>\n\nSo.",
    "none": "So.",
    "open": "<think>\nhm and hm",
}


def said(content, **beside):
    return [{"role": "assistant", "content": content, **beside}]


@pytest.fixture(scope="module")
def qwen3():
    made = AutoTokenizer.from_pretrained(str(demo.MODEL))
    made.chat_template = chat_template_utils.qwen3_chat_template
    return made


def switched(tokenizer, is_on):
    made = copy.deepcopy(tokenizer)
    set_defaults(made, {"enable_thinking": is_on})
    return made


CONFIGS = {"paired": DPOConfig, "unpaired": KTOConfig, "sft": SFTConfig}


def checked(kind, rows, tokenizer, choice="all", **settings):
    loaded = Loaded(Dataset.from_list(rows), SimpleNamespace(kept=None))
    dataset = text.without(loaded, choice).dataset
    args = CONFIGS[kind](output_dir="unused", report_to="none", use_cpu=True, bf16=False, **settings)
    given = Examples(dataset, None, None, np.arange(len(dataset)), choice)
    return check(
        METHODS[kind], given, tokenizer, args, ModelFiles({tokenizer.eos_token_id}, [tokenizer.eos_token], None)
    )


def found(result):
    return {finding.name: len(finding.rows) for finding in result.findings.found if "thought" in finding.name}


def pairs(*kinds):
    return [{"prompt": ASKED, "chosen": said(HELD[kind]), "rejected": said("No.")} for kind in kinds]


def test_counts_are_those_of_the_tokens(qwen3):
    """Qwen3's template writes an empty thought into the last turn that has none."""
    result = checked("paired", pairs("whole", "whole", "empty", "none", "open"), qwen3)
    assert thoughts.counts(result.findings.facts) == {
        "chosen": {
            "with a thought": 2,
            "with an empty thought": 1,
            "with an empty thought from the chat template": 1,
            "with a cut thought": 1,
        },
        "rejected": {"with an empty thought from the chat template": 5},
    }
    assert found(result) == {"thought_empty": 1, "thought_inserted": 5, "thought_cut": 1}
    masked = checked("paired", pairs("whole", "whole", "empty", "none", "open"), qwen3, "masked")
    assert found(masked) == {"thought_unanswered": 1}  # the empty ones are not trained on


def test_thoughts_beside_the_text_and_other_tags(qwen3):
    rows = [{"prompt": ASKED, "completion": said("So.", reasoning_content=value)} for value in ("hm", "  ", None)]
    result = checked("sft", rows, qwen3)
    assert list(thoughts.counts(result.findings.facts)["completion"].values()) == [1, 2]
    assert (
        text.found_in("[THINK]a[/THINK]b") == text.found_in("<|channel|>analysis<|message|>a<|end|>b") == [("a", True)]
    )
    assert text.found_in("a</think>b", begins_inside=True) == [("a", True)] and text.found_in("a</think>b") == [
        ("a", False)
    ]
    assert text.found_in("a b", begins_inside=True) == [("a b", False)] and text.found_in("a < b") == []
    assert text.found_in("a<|end|>", begins_inside=True) == [("a<|end|>", False)]
    of_gpt_oss = "a<|end|><|start|>assistant<|channel|>final<|message|>b"
    assert text.found_in(of_gpt_oss, begins_inside=True) == [("a", True)]
    assert text.found_in("Yes.<|end|>") == []  # the end of a turn, as Phi-3 and the demo's template write it
    assert text.is_open("<think>\n") and not text.is_open("<think>\n</think>") and not text.is_open("Why?")


def test_a_cut_at_max_length_is_a_cut_thought(qwen3):
    whole = said(f"<think>\n{'hm ' * 60}\n</think>\n\nSo.")
    rows = [{"prompt": ASKED, "completion": whole, "label": label} for label in (True, False)]
    for settings, kind in (({}, "with a thought"), ({"max_length": 60}, "with a cut thought")):
        result = checked("unpaired", rows, qwen3, **settings)
        assert thoughts.counts(result.findings.facts)["completion"] == {kind: 2}


def test_thoughts_after_a_prompt_that_switches_them_off(qwen3):
    rows = pairs("whole", "none")
    assert found(checked("paired", rows, switched(qwen3, False)))["thought_against_prompt"] == 1
    assert "thought_against_prompt" not in found(checked("paired", rows, switched(qwen3, True)))
    assert found(checked("paired", pairs("none"), switched(qwen3, False))) == {}


@pytest.mark.parametrize("is_on", [False, True])
@pytest.mark.parametrize("choice", ["all", "no_empty", "answer"])
def test_the_loss_covers_what_the_setting_says(qwen3, is_on, choice):
    """Computed here from the text of the rendered conversation: the learned tokens decode to what follows the rest."""
    tokenizer = switched(qwen3, is_on)
    end = "<|im_end|>\n"
    learned = {
        "all": {"whole": "<think>\nhm\n</think>\n\nSo.", "empty": "<think>\n\n</think>\n\nSo."},
        "no_empty": {"whole": "<think>\nhm\n</think>\n\nSo.", "empty": "So."},
        "answer": {"whole": "So.", "empty": "So."},
    }[choice]
    names = ["whole", "empty", "none"]
    rows = [{"prompt": ASKED, "completion": said(HELD[name])} for name in names]
    result = checked("sft", rows, tokenizer, choice)
    for name, row in zip(names, result.tokenised, strict=True):
        want = learned["whole" if name == "whole" else "empty"] + end
        if not is_on and not (name == "whole" and choice != "answer"):  # the prompt ends with the empty thought
            want = want.removeprefix("<think>\n\n</think>\n\n")
        got = tokenizer.decode(
            [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        )
        if not is_on and name == "whole" and choice != "answer":  # the thought begins in what the prompt holds already
            assert want.endswith(got) and got.endswith("hm\n</think>\n\nSo." + end)
            continue
        assert got == want, (name, got)
        assert [label for label in row["labels"] if label != -100] == [
            token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
        ]


def test_an_empty_thought_of_both_completions_goes_to_the_prompt(qwen3):
    rows = pairs("none", "whole")
    kept, moved = (checked("paired", rows, qwen3, choice).tokenised for choice in ("all", "no_empty"))
    empty = qwen3("<think>\n\n</think>\n\n", add_special_tokens=False)["input_ids"]
    for name in ("chosen", "rejected"):
        assert moved[0][f"{name}_ids"] == kept[0][f"{name}_ids"][len(empty) :]
        assert moved[0]["prompt_ids"] + moved[0][f"{name}_ids"] == kept[0]["prompt_ids"] + kept[0][f"{name}_ids"]
    assert moved[0]["prompt_ids"] == kept[0]["prompt_ids"] + empty
    assert {name: moved[1][name] for name in kept.column_names} == kept[1]  # one thinks, so their prompt cannot


def test_removing_from_text_parts_and_keys():
    rows = [
        {"prompt": "<think>old</think>q", "chosen": "<think>a</think>\n\nYes", "rejected": " <think> </think>No"},
        {"prompt": "q", "chosen": "a</think>Yes", "rejected": "<think>never closed"},
        {"prompt": "q", "chosen": "Yes <think>later</think>", "rejected": "[THINK]x[/THINK]No"},
    ]

    def left(choice):
        made = text.without(Loaded(Dataset.from_list(rows), None), choice).dataset
        return [(row["chosen"], row["rejected"]) for row in made], made["prompt"][0]

    assert left("all")[0] == [(row["chosen"], row["rejected"]) for row in rows]
    assert left("no_empty")[0] == [(rows[0]["chosen"], "No"), *((row["chosen"], row["rejected"]) for row in rows[1:])]
    assert left("answer")[0] == [("Yes", "No"), ("Yes", "<think>never closed"), ("Yes <think>later</think>", "No")]
    assert left("answer")[1] == "<think>old</think>q"
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "<think>a</think>Yes"}], "thinking": "b"}]
    made = text.without(Loaded(Dataset.from_list([{"messages": ASKED_PARTS + parts}]), None), "answer").dataset[0]
    assert made["messages"][1]["content"][0]["text"] == "Yes" and made["messages"][1]["thinking"] is None


ASKED_PARTS = [{"role": "user", "content": [{"type": "text", "text": "<think>mine</think>"}], "thinking": None}]
