"""The special tokens that a chat template writes between turns: found for the templates that TRL ships, and for some written here."""

from importlib import resources

import pytest
from transformers import AutoTokenizer

from trl_ext import demo
from trl_ext.data.template_marks import is_marked, marks
from trl_ext.model_files import chat_template
from trl_ext.model_files.chat_template import Template

CHAT = [{"role": "user", "content": "Is it raining?"}, {"role": "assistant", "content": "No."}]
SHIPPED = {
    "qwen2_5.jinja": ("<|im_start|>",),
    "qwen3_training.jinja": ("<|im_start|>",),
    "llama3.jinja": ("<|start_header_id|>", "<|end_header_id|>"),
    "gemma.jinja": ("<start_of_turn>",),
    "phi3.jinja": ("<|assistant|>", "<|user|>"),
    "deepseekv3.jinja": ("<｜Assistant｜>", "<｜User｜>"),
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = "{% for m in messages %}\n<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
VICUNA = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else ' ASSISTANT: ' }}{{ m.content }}"
    "{{ '</s>' if m.role == 'assistant' }}{% endfor %}"
)
BARE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
REFUSES = "{{ raise_exception('Only one turn is supported') }}"


def shipped(name: str) -> str:
    return (resources.files("trl") / "chat_templates" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "expected"), SHIPPED.items())
def test_the_beginnings_of_turns_are_found(name, expected):
    assert marks(Template(shipped(name), TOKENS).render) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MISTRAL, ("[/INST]", "[INST]")),
        (ZEPHYR, ("<|assistant|>", "<|user|>")),
        (VICUNA, ("ASSISTANT:", "USER:")),
        (BARE, ()),
        (REFUSES, ()),
    ],
)
def test_templates_of_other_kinds(text, expected):
    assert marks(Template(text, TOKENS).render) == expected


def test_an_end_token_alone_is_no_mark():
    found = marks(Template(shipped("qwen2_5.jinja"), TOKENS).render)
    assert not is_marked("No.<|im_end|>", found)
    assert is_marked("<|im_start|>user\nIs it raining?<|im_end|>\n<|im_start|>assistant\n", found)
    assert not is_marked(None, found)


@pytest.mark.parametrize("text", [*map(shipped, SHIPPED), MISTRAL, ZEPHYR, VICUNA])
def test_conversations_are_written_as_transformers_writes_them(text):
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    expected = tokenizer.apply_chat_template(CHAT, chat_template=text, tokenize=False)
    assert Template(text, TOKENS).render(CHAT) == expected


def test_the_template_of_a_model_is_read_from_its_files(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL)
    tokenizer.save_pretrained(tmp_path / "with")
    found = chat_template.of_model(str(tmp_path / "with"))
    assert found.render(CHAT) == tokenizer.apply_chat_template(CHAT, tokenize=False)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "without")
    assert chat_template.of_model(str(tmp_path / "without")).text is None
    assert chat_template.of_model(demo.EMBEDDED).render(CHAT) == found.render(CHAT)
    assert chat_template.of_model(str(tmp_path)) is None  # no tokenizer
    assert chat_template.of_model("nobody/has-this-model") is None
