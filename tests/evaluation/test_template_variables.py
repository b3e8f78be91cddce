"""`tools` and `chat_template_kwargs` of prompts reach the model that answers, the judge, and the file of answers."""

import json

import pytest
from transformers import AutoTokenizer

from tests import finished_runs
from trl_ext import demo
from trl_ext.cli import main
from trl_ext.evaluation import answers, template_variables
from trl_ext.judging.judge import Conversation, key
from trl_ext.judging.scorers import prompt_ids
from trl_ext.judging.template import prompt_text

TEMPLATE = (
    "{% if tools %}TOOLS {% for tool in tools %}{{ tool.function.name }} {% endfor %}{% endif %}{% if loud %}LOUD {% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
CLOCK = [{"type": "function", "function": {"name": "clock", "description": "the time", "parameters": {}}}]
CALL = [{"type": "function", "function": {"name": "clock", "arguments": {}}}]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


ROWS = [
    {"prompt": user("Review the hotel.")},
    {"prompt": user("Review the hotel."), "tools": json.dumps(CLOCK)},  # another prompt than the first: it has tools
    {"prompt": user("Review the bridge."), "chat_template_kwargs": {"loud": True}},
    {
        "prompt": [
            *user("Review the garden."),
            {"role": "assistant", "tool_calls": CALL},
            {"role": "tool", "content": "9"},
        ]
    },
]


@pytest.fixture
def tokenizer():
    found = AutoTokenizer.from_pretrained(demo.MODEL)
    found.chat_template = TEMPLATE
    return found


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    run = finished_runs.leave(tmp_path / "run", "embedded", scale=0.3, max_length=256)
    return run


def judge(run, *words) -> int:
    return main(["eval", str(run), "--prompts", "prompts.jsonl", "--max_new_tokens", "4", *words])


def test_what_the_model_is_asked_is_what_the_template_writes(run, monkeypatch):
    (run / "chat_template.jinja").write_text(TEMPLATE)
    asked, sample = [], answers.sample

    def noting(model, tokenizer, rows, **settings):
        asked.append([tokenizer.decode(row, skip_special_tokens=True) for row in rows])
        return sample(model, tokenizer, rows, **settings)

    monkeypatch.setattr(answers, "sample", noting)
    assert judge(run, "--judge", "sentiment") == 0
    # Rendered by transformers itself from the rows as they were written.
    tokenizer = AutoTokenizer.from_pretrained(run)
    expected = [
        tokenizer.decode(
            tokenizer.apply_chat_template(
                [{"content": "", **message} for message in row["prompt"]],
                tools=CLOCK if "tools" in row else None,
                add_generation_prompt=True,
                return_dict=False,
                **row.get("chat_template_kwargs", {}),
            ),
            skip_special_tokens=True,
        )
        for row in ROWS
    ]
    assert asked == [expected, expected] and len({*expected}) == 4  # of the run and of its base
    monkeypatch.setattr(answers, "sample", None)
    assert judge(run, "--judge", "sentiment") == 0  # all four are found again


def test_what_no_template_writes_is_counted_and_said(run, capsys):
    """The embedded model's template knows no tools and no other variables."""
    assert judge(run, "--judge", "sentiment") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name in ("tools", "chat_template_kwargs"):
        assert (
            f"`{name}` of 1 prompt is not used: the model's chat template writes the same text without it." in printed
        )


def test_prompts_that_are_text_have_no_template(tokenizer):
    said = template_variables.statements(
        ["It was", "It is", user("a")], [{"tools": CLOCK}, {"tools": CLOCK}, {}], tokenizer
    )
    assert list(said) == [
        "`tools` of 2 prompts is not used: the chat template would write it, and prompts that are plain text are asked without a "
        "template."
    ]


def test_a_judge_reads_tools_and_calls():
    assert prompt_text(Conversation(user("Hi"))) == "Hi"
    called = [*user("Hi"), {"role": "assistant", "content": "", "tool_calls": CALL}, {"role": "tool", "content": "9"}]
    assert prompt_text(Conversation(called, {"tools": CLOCK, "loud": True})) == (
        f"[Tools]\n{json.dumps(CLOCK)}\n\n[User]\nHi\n\n[Assistant]\n{json.dumps(CALL)}\n\n[Tool]\n9"
    )


def test_keys_differ_where_variables_do():
    plain, with_tools = Conversation(user("a")), Conversation(user("a"), {"tools": CLOCK})
    assert key(plain) == key(user("a")) != key(with_tools)


def test_variables_reach_the_template(tokenizer):
    loud = Conversation(user("a"), {"loud": True, "tools": CLOCK})
    assert tokenizer.decode(prompt_ids(loud, tokenizer)) == tokenizer.decode(
        tokenizer("TOOLS clock LOUD user: a assistant: ", add_special_tokens=False)["input_ids"]
    )
