"""Defaults written into a chat template: transformers' own rendering with the same variables, for the templates that TRL ships."""

import copy
import re
from pathlib import Path

import pytest
import trl
from transformers import AutoTokenizer

from tests.recipe.helpers import load_from, problem
from trl_ext import demo
from trl_ext.model_files.chat_template import Template
from trl_ext.model_files.template_defaults import (
    get_line,
    put_line,
    set_defaults,
    split,
    variables_of,
    with_defaults,
)

TEMPLATES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (Path(trl.__file__).parent / "chat_templates").glob("*.jinja")
}
THINKERS = sorted(
    name for name, text in TEMPLATES.items() if " enable_thinking" in re.sub(r"{#.*?#}", "", text, flags=re.S)
)
ASKED = [{"role": "user", "content": "Why?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSo."}]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(demo.MODEL))


def written(tokenizer, template, messages, **variables):
    """By transformers."""
    return tokenizer.apply_chat_template(
        messages,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=messages[-1]["role"] == "user",
        **variables,
    )


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("is_on", [False, True])
def test_a_default_writes_what_the_variable_writes(tokenizer, name, is_on):
    template = TEMPLATES[name]
    filled = with_defaults(template, {"enable_thinking": is_on})
    for messages in (ASKED, ANSWERED):
        want = written(tokenizer, template, messages, enable_thinking=is_on)
        assert written(tokenizer, filled, messages) == want
        assert written(tokenizer, filled, messages, enable_thinking=None) == want  # a row that lacks the key
        other = written(tokenizer, template, messages, enable_thinking=not is_on)
        assert written(tokenizer, filled, messages, enable_thinking=not is_on) == other  # a row's value wins
        assert Template(filled, tokenizer.special_tokens_map).render(
            messages, add_generation_prompt=messages is ASKED
        ) == written(tokenizer, filled, messages)


def test_thinking_changes_what_qwen3_writes(tokenizer):
    off, on = (
        written(tokenizer, with_defaults(TEMPLATES["qwen3"], {"enable_thinking": x}), ASKED) for x in (False, True)
    )
    assert off == f"{on}<think>\n\n</think>\n\n"


VALUES = [True, 0, -1.5, 'say "é😀"\n{{ no }} %} \\ \'', ["a", [2]], {"a": {"b": [False]}}]


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize(
    "text",
    [
        "{{ x | tojson }}",
        "\n  {% if x is defined %}\n  {{ x | tojson }}\n{% endif %}",
        "{% macro f() %}{{ x | tojson }}{% endmacro %} {{ f() }}",
    ],
)
def test_every_value_and_white_space_at_the_start(tokenizer, value, text):
    assert written(tokenizer, with_defaults(text, {"x": value}), ASKED) == written(tokenizer, text, ASKED, x=value)


def test_new_defaults_replace_old_ones():
    once = with_defaults("{{ x }}{{ y }}", {"x": 1})
    assert with_defaults(once, {"y": 2}) == with_defaults("{{ x }}{{ y }}", {"y": 2})
    assert with_defaults(once, None) == with_defaults(once, {}) == once
    assert split(once)[1] == split("{{ x }}{{ y }}")[1] == "{{ x }}{{ y }}"


def test_all_templates_of_a_tokenizer_have_them_and_a_saved_one_keeps_them(tokenizer, tmp_path):
    made = copy.deepcopy(tokenizer)
    made.chat_template = {"default": TEMPLATES["qwen3"], "other": "{{ enable_thinking }}"}
    set_defaults(made, {"enable_thinking": False})
    assert made.apply_chat_template(ASKED, chat_template="other", tokenize=False) == "False"
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert written(again, again.chat_template["default"], ASKED).endswith("<think>\n\n</think>\n\n")
    line = get_line(again)
    put_line(again, "")
    assert again.chat_template["default"] == TEMPLATES["qwen3"] and "enable_thinking" in line


def test_the_variables_of_templates():
    assert variables_of(TEMPLATES["qwen3"]) == {"enable_thinking"}
    assert variables_of(TEMPLATES["gptoss"]) == {"builtin_tools", "model_identity", "reasoning_effort"}
    assert variables_of(TEMPLATES["llama3"]) == variables_of("{{ messages[0].content + bos_token }}") == set()
    for name in THINKERS:
        assert "enable_thinking" in variables_of(TEMPLATES[name]), name
        assert variables_of(with_defaults(TEMPLATES[name], {"z": 1})) == variables_of(TEMPLATES[name])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("{enable_thinkin: false}", "`enable_thinkin`, which the chat template of model does not read: did you mean enable_thinking?"),
        ("{effort: high}", "does not read: allowed are enable_thinking."),
        ("{messages: []}", "sets `messages`, which each conversation gives the chat template itself. Remove it."),
        ("{tools: []}", "in the column `tools` of the data."),
        ("{enable_thinking: null}", "gives `enable_thinking` null: give true, false"),
        ("{2: true}", "names 2: give the names of variables"),
        ("[a]", "give a mapping"),
    ],
)  # fmt: skip
def test_variables_that_cannot_work(tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", TEMPLATES["qwen3"])
    for trainer in ("trainer: sft\n", "loss: dpo\n", "trainer: grpo\nuse_peft: true\nreward_funcs: [sentiment]\n"):
        recipe = f"{trainer}dataset_name: org/data\nmodel_name_or_path: model\n"
        assert sentence in problem(tmp_path, f"chat_template_kwargs: {given}\n", recipe)


def test_variables_of_a_model_without_a_template(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", None)
    recipe = "loss: dpo\ndataset_name: org/data\nmodel_name_or_path: model\n"
    assert "has no chat template" in problem(tmp_path, "chat_template_kwargs: {enable_thinking: false}\n", recipe)


def test_the_settings_of_a_sampling_trainer_hold_them_too(tmp_path, monkeypatch):
    """TRL gives them to the templates of reward models."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", TEMPLATES["qwen3"])
    given, rest = {"enable_thinking": False}, "dataset_name: org/data\nmodel_name_or_path: model\n"
    words = f"chat_template_kwargs: {{enable_thinking: false}}\n{rest}"
    for trainer, has in (("trainer: grpo\nuse_peft: true\nreward_funcs: [sentiment]\n", True), ("loss: dpo\n", False)):
        sections = load_from(tmp_path, f"{trainer}{words}").sections()
        assert sections["data"]["chat_template_kwargs"] == given
        assert ("chat_template_kwargs" in sections["training"]) is has


def write_model(folder: Path, template: str | None) -> None:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    AutoTokenizer.from_pretrained(str(demo.MODEL)).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
