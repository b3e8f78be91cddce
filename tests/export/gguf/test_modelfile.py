"""Modelfiles: the prompt that a Go template renders against `apply_chat_template`, by tokens; stop tokens and sampling."""

import re

import pytest
from transformers import AutoTokenizer, GenerationConfig

from tests.export.gguf import templates
from tests.export.gguf.go_templates import ollama, render
from trl_ext import demo
from trl_ext.export.gguf import modelfile, turns
from trl_ext.export.gguf.template_check import modelfile_turns

TALKS = [
    [("user", "Hello.")],
    [("system", "Be brief."), ("user", 'A "quoted" {{ .Content }}\n\nß 日本')],
    [("user", "One"), ("assistant", "Two\n"), ("user", "Three {% if %}")],
    [("system", "S\nT"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5"), ("assistant", "6"), ("user", "7")],
]  # fmt: skip


def talk(parts):
    return [{"role": role, "content": content} for role, content in parts]


def tokenizer_of(name):
    return (
        AutoTokenizer.from_pretrained(demo.MODEL) if name == "demo" else templates.tokenizer_with(templates.ALL[name])
    )


def template_of(text: str) -> str:
    return re.search(r'^TEMPLATE """(.*)"""$', text, re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("adds_begin", [False, True])
@pytest.mark.parametrize("name", [*templates.ALL, "demo"])
def test_the_prompt_has_the_tokens_of_apply_chat_template(name, adds_begin):
    tokenizer = tokenizer_of(name)
    if adds_begin and tokenizer.bos_token is None:
        pytest.skip("the tokenizer has no begin token")
    found = turns.learn(turns.renderer(tokenizer))
    begins = tokenizer.bos_token and templates.ALL.get(name, "").startswith("{{ bos_token }}")
    served = modelfile_turns(found, adds_begin, tokenizer)
    text = modelfile.write("m.gguf", served, ["</s>"], GenerationConfig())
    for messages in map(talk, TALKS):
        if name == "headers":
            messages = [message | {"content": message["content"].strip()} for message in messages]
        if messages[0]["role"] == "system" and name == "brackets":
            assert found.system_start is None
            continue
        prompt = ollama(template_of(text), messages)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if adds_begin and begins:  # llama.cpp adds it
            assert not prompt.startswith(tokenizer.bos_token)
            ids = [tokenizer.bos_token_id, *ids]
        assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def test_what_is_not_text_between_messages_is_refused():
    render_ = turns.renderer(templates.tokenizer_with(templates.LAST_USER))
    with pytest.raises(
        turns.Inexpressible, match="4 messages with a system message is not fixed text between messages"
    ):
        turns.learn(render_)
    for template, reason in (
        ("{{ messages | tojson }}", "with"),
        ("{{ messages[-1]['content'] }}", "leaves a message out"),
        ("{{ raise_exception('never') }}", "fails on a plain conversation"),
    ):
        with pytest.raises(turns.Inexpressible, match=reason):
            turns.learn(turns.renderer(templates.tokenizer_with(template)))


def test_removed_white_space_and_refused_system_messages_are_noted():
    found = {name: turns.learn(turns.renderer(templates.tokenizer_with(text))) for name, text in templates.ALL.items()}
    assert {name for name, each in found.items() if each.strips} == {"headers"}
    assert {name for name, each in found.items() if each.system_start is None} == {"brackets"}


def test_stop_tokens_and_sampling_settings():
    tokenizer = templates.tokenizer_with(templates.CHATML)
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"])
    config = GenerationConfig(
        eos_token_id=ends, do_sample=True, temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05
    )
    text = modelfile.write("m-Q8_0.gguf", None, modelfile.stops(tokenizer, config), config)
    assert text.splitlines() == [
        "FROM ./m-Q8_0.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        'PARAMETER stop "</s>"',
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_k 20",
        "PARAMETER top_p 0.95",
        "PARAMETER repeat_penalty 1.05",
    ]
    assert modelfile.sampling(GenerationConfig(do_sample=False)) == {"temperature": 0}
    assert modelfile.sampling(GenerationConfig(eos_token_id=1)) == {}


def test_the_interpreter_on_examples_of_the_go_documentation():
    """`{{23 -}} < {{- 45}}` is "23<45" there; here with strings."""
    assert render('{{ "23" -}} < {{- "45" }}', {}) == "23<45"
    assert render('a{{ if eq .X "1" }}b{{ else if .Y }}c{{ else }}d{{ end }}e', {"X": "2", "Y": ""}) == "ade"
    assert (
        render(
            "{{ range .L }}{{ if not .E }}<{{ .N }}>{{ end }}{{ end }}",
            {"L": [{"N": "1", "E": ""}, {"N": "2", "E": "x"}]},
        )
        == "<1>"
    )
