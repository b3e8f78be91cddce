"""What a conversation says against its tokens, for templates that leave something out and for those that do not."""

import json
import re
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features

from tests.inspection.templates import ALTERNATING, CHATML, DATED, LATE_SYSTEM, STRIPPING, THINKING, tokenizer
from trl_ext import data
from trl_ext.data import plain_data
from trl_ext.data.demonstrations import DEMONSTRATIONS
from trl_ext.data.examples import Examples
from trl_ext.data.prompts import PROMPTS
from trl_ext.data.trl_columns import ANY_MESSAGES
from trl_ext.inspection.check import check
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.methods import METHODS
from trl_ext.support.errors import UserError

ALL = (CHATML, THINKING, STRIPPING, DATED, ALTERNATING, LATE_SYSTEM)
WRITE_CALLS = (THINKING, DATED)


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": 'Paris "XX"', "days": 3}}}
TOOLS = [{"type": "function", "function": {"name": "get_forecast", "description": "d", "parameters": {}}}]


def findings(method, dataset, template, **settings):
    """The findings of the check before a run."""
    given = {
        "dataset_num_proc": None, "max_length": None, "truncation_mode": "keep_start", "eos_token": None, "packing": False,
        "chat_template_path": None, "assistant_only_loss": False, "completion_only_loss": None, "shuffle_dataset": False,
        "dataset_text_field": "text", "chat_template_kwargs": None, "max_completion_length": 8,
    }  # fmt: skip
    made = tokenizer(template)
    model = ModelFiles({made.eos_token_id}, [made.eos_token], None)
    examples = Examples(dataset, None, None, np.arange(len(dataset)))
    return check(METHODS[method], examples, made, SimpleNamespace(**(given | settings)), model).findings


def pairs(*rows):
    names = ("prompt", "chosen", "rejected", "tools")[: len(rows[0])]
    features = {name: ANY_MESSAGES for name in names if name != "tools"}
    return Dataset.from_list(
        [dict(zip(names, row, strict=True)) for row in rows],
        features=Features(features | ({"tools": datasets.Value("string")} if "tools" in names else {})),
    )


def lacking(found):
    """{finding about something that is left out: number of examples}"""
    return {f.name: len(f.rows) for f in found.found if f.name in found.details}


@pytest.mark.parametrize("template", ALL)
def test_templates_that_leave_nothing_out(template):
    """White space that is stripped, JSON, and a system turn that is moved are no losses."""
    system = [] if template == ALTERNATING else [{"role": "system", "content": "Be  brief.\n"}]
    rows = [
        (
            [*system, user("  What is “2+2”?\n\n"), assistant("Four."), user('And "3\\4"?')],
            [assistant(" Yes. ")],
            [assistant("N")],
        ),
        ([user("ünï\tcode 日本")], [assistant("a"), user("more?"), assistant("b")], [assistant("c")]),
    ]
    if template in WRITE_CALLS:
        called = [user("Weather?"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": '{"t": "3 °C"}'}]
        rows.append((called, [assistant("3 °C.")], [assistant("4 °C.")]))
    found = findings("paired", pairs(*rows), template)
    assert lacking(found) == {} and "nothing_left" in found.facts.flags


@pytest.mark.parametrize(
    ("template", "rows", "expected", "said"),
    [
        # Reasoning in the text: stripped from a completion; kept in the last turn only; kept as it is.
        (STRIPPING, [([user("q")], [assistant("<think>hm</think>Yes")], [assistant("No")])], {"reasoning_not_learned": 1}, "'hm'"),
        (THINKING, [([user("q"), assistant("<think>hm</think>A"), user("r")], [assistant("<think>ok</think>B")], [assistant("C")])],
         {"reasoning_missing": 1}, "'hm'"),
        (CHATML, [([user("q")], [assistant("<think>hm</think>Yes")], [assistant("No")])], {}, None),
        # Reasoning and calls beside the text.
        (CHATML, [([user("q")], [assistant("Yes", reasoning_content="let me see")], [assistant("No")])],
         {"reasoning_not_learned": 1}, "'let me see'"),
        (THINKING, [([user("q")], [assistant("Yes", reasoning_content="let me see")], [assistant("No")])], {}, None),
        (CHATML, [([user("q")], [assistant("Looking.", tool_calls=[CALL])], [assistant("No")])], {"calls_not_learned": 1}, "'weather'"),
        (CHATML, [([user("q"), assistant("", tool_calls=[CALL]), {"role": "tool", "content": "3"}], [assistant("3")], [assistant("4")])],
         {"calls_missing": 1}, "'weather'"),
        (THINKING, [([user("q")], [assistant("Looking.", tool_calls=[CALL])], [assistant("No")])], {}, None),
        # A turn that is skipped, a name that is not written, tools that are not declared.
        (STRIPPING, [([user("q"), {"role": "narrator", "content": "It rains."}], [assistant("Y")], [assistant("N")])],
         {"text_missing": 1}, "'It rains.' (narrator)"),
        (CHATML, [([user("q", name="Zoe")], [assistant("Y")], [assistant("N")])], {"name_missing": 1}, "'Zoe'"),
        (CHATML, [([user("q")], [assistant("Y")], [assistant("N")], json.dumps(TOOLS))], {"tools_missing": 1}, "'get_forecast'"),
        (THINKING, [([user("q")], [assistant("Y")], [assistant("N")], json.dumps(TOOLS))], {}, None),
    ],
)  # fmt: skip
def test_what_templates_leave_out(template, rows, expected, said):
    fine = ([user("Hi?")], [assistant("Yes")], [assistant("No")], json.dumps([]))[: len(rows[0])]
    found = findings("paired", pairs(fine, *rows, fine), template)
    assert lacking(found) == expected
    found.require_teachable()
    if said:
        [details] = found.details.values()
        assert list(details) == [1] and said in details[1]
        assert said in found.summary()[-1] and "Row 1" in found.summary()[-1]


THOUGHTS = [
    ([user(f"q{i}")], [assistant(f"<think>right {i}</think>")], [assistant(f"<think>wrong {i}</think>")])
    for i in range(12)
]


def test_completions_of_which_only_the_end_is_left_are_refused():
    found = findings("paired", pairs(*THOUGHTS), STRIPPING)
    assert lacking(found) == {"nothing_left": 12, "reasoning_not_learned": 12}
    with pytest.raises(UserError, match=r"In 12 of 12 pairs, .*leaves out reasoning.*only the end.*Row 0.*'right 0'"):
        found.require_teachable()
    findings("paired", pairs(*THOUGHTS), THINKING).require_teachable()


def test_most_rows_are_enough_to_refuse_and_half_is_not():
    fine = [([user(f"p{i}")], [assistant("Yes")], [assistant("No")]) for i in range(12)]
    findings("paired", pairs(*THOUGHTS, *fine), STRIPPING).require_teachable()
    with pytest.raises(UserError, match="In 12 of 23 pairs"):
        findings("paired", pairs(*THOUGHTS, *fine[1:]), STRIPPING).require_teachable()


def test_pairs_that_differ_in_what_is_left_out_are_refused_with_the_cause():
    rows = [
        ([user("q")], [assistant(f"<think>a{i}</think>Yes")], [assistant(f"<think>b{i}</think>Yes")]) for i in range(4)
    ]
    with pytest.raises(UserError, match=r"the same tokens in all 4 pairs.*chat template leaves out reasoning.*'a0'"):
        findings("paired", pairs(*rows), STRIPPING).require_teachable()


def test_calls_of_llama_factory_are_read_and_compared():
    rows = [
        {
            "conversations": [
                {"from": "human", "value": f"Weather {i}?"},
                {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": {"city": f"c{i}"}})},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "It rains."},
            ],
            "tools": json.dumps(TOOLS),
        }
        for i in range(3)
    ]
    loaded = plain_data.load(Dataset.from_list(rows), DEMONSTRATIONS)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "c0"}}}
    assert loaded.dataset[0]["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert loaded.dataset[0]["messages"][2] == {"role": "tool", "content": "rain"}
    assert "3 rows: turns that call a function became `tool_calls` of the assistant." in loaded.report.sentences()
    assert lacking(findings("sft", loaded.dataset, THINKING)) == {}
    assert lacking(findings("sft", loaded.dataset, CHATML)) == {"calls_not_learned": 3, "tools_missing": 3}
    # Where the call is all there is, as in the data that tunes models to call tools.
    only = [{**row, "conversations": row["conversations"][:2]} for row in rows]
    only = plain_data.load(Dataset.from_list(only), DEMONSTRATIONS).dataset
    findings("sft", only, THINKING).require_teachable()
    with pytest.raises(UserError, match=r"In 3 of 3 completions, .* leaves out a tool call"):
        findings("sft", only, CHATML).require_teachable()


def test_preferences_between_calls_are_read():
    def turns(city):
        call = json.dumps({"name": "weather", "arguments": {"city": city}})
        return {"from": "function_call", "value": call}

    rows = [
        {"conversations": [{"from": "human", "value": "W?"}], "chosen": turns(f"a{i}"), "rejected": turns("b")}
        for i in range(3)
    ]
    dataset, report = data.load(Dataset.from_list(rows))
    [message] = dataset[0]["chosen"]
    assert message["role"] == "assistant" and message["tool_calls"][0]["function"]["arguments"] == {"city": "a0"}
    assert report.notes == {"turns that call a function became `tool_calls` of the assistant": 3}
    findings("paired", dataset, THINKING).require_teachable()
    with pytest.raises(UserError, match="leaves out a tool call"):
        findings("paired", dataset, CHATML).require_teachable()


@pytest.mark.parametrize("method", ["ppo", "online"])
def test_prompts(method):
    rows = [{"prompt": [{"role": "narrator", "content": f"Go on, {i}"}]} for i in range(4)]
    dataset = plain_data.load(Dataset.from_list(rows), PROMPTS).dataset
    findings(method, dataset, CHATML).require_teachable()
    with pytest.raises(
        UserError, match=r"In 4 of 4 prompts, nothing of what the prompt says.*'Go on, 0' \(narrator\)"
    ):
        findings(method, dataset, STRIPPING).require_teachable()
    # TRL declares no tools from the data here, whatever the template.
    rows = [{"prompt": [user("q")], "tools": json.dumps(TOOLS)}]
    dataset = plain_data.load(Dataset.from_list(rows), PROMPTS).dataset
    assert lacking(findings(method, dataset, THINKING)) == {"tools_missing": 1}


@pytest.mark.parametrize("method", ["reward", "unpaired", "sft"])
def test_other_kinds_of_training(method):
    dataset = pairs(*THOUGHTS)
    if method == "unpaired":
        dataset = data.unpair(dataset).dataset
    if method == "sft":
        dataset = plain_data.load(dataset, DEMONSTRATIONS).dataset
    with pytest.raises(UserError, match=rf"In {len(dataset)} of {len(dataset)} .*leaves out reasoning"):
        findings(method, dataset, STRIPPING).require_teachable()
    assert lacking(findings(method, dataset, THINKING)) == {}


def test_plain_text_is_not_compared():
    dataset = Dataset.from_list([{"prompt": "q", "chosen": "a", "rejected": "b"}])
    assert "nothing_left" not in findings("paired", dataset, CHATML).facts.flags


def test_images_are_refused_by_a_model_that_reads_text():
    image = [{"type": "image_url", "image_url": {"url": "x.png"}}, {"type": "text", "text": "What?"}]
    rows = pairs(
        ([user("q")], [assistant("Y")], [assistant("N")]), ([user(image)], [assistant("Y")], [assistant("N")])
    )
    message = "Row 1: the content of a message (user) has a part of type `image_url`, but the model reads text only."
    with pytest.raises(UserError, match=re.escape(message)):
        findings("paired", rows, CHATML)


@pytest.mark.parametrize("kind", ["input_audio", "video", "document", "redacted_thinking"])
def test_parts_that_nothing_reads_are_refused(kind):
    part = [{"type": kind, kind: "x"}, {"type": "text", "text": "What?"}]
    rows = pairs(([user(part)], [assistant("Y")], [assistant("N")]))
    message = (
        f"Row 0: the content of a message (user) has a part of type `{kind}`, which no trainer reads. Write it as text"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        findings("paired", rows, CHATML)
