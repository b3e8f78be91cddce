"""A GGUF file whose template or tokens are not those of training is refused; each case is one change of a right file."""

import pytest

from tests.export.gguf import templates
from trl_ext.export.gguf import template_check, turns
from trl_ext.export.gguf.template_check import Prompts
from trl_ext.support.errors import UserError


def served(tokenizer, *, adds_begin, template=None, change=lambda ids: ids) -> Prompts:
    """As llama.cpp reads a file made of this tokenizer."""

    def tokens(text):
        ids = change(tokenizer(text, add_special_tokens=False)["input_ids"])
        return [tokenizer.bos_token_id, *ids] if adds_begin else ids

    return Prompts(template or tokenizer.chat_template, adds_begin, tokens)


@pytest.mark.parametrize("name", templates.ALL)
def test_a_right_file_passes(name):
    tokenizer = templates.tokenizer_with(templates.ALL[name])
    found = turns.learn(turns.renderer(tokenizer))
    begins = templates.ALL[name].startswith("{{ bos_token }}")
    assert template_check.begins(tokenizer) is begins
    for adds_begin in {False, begins}:
        compared = template_check.check(served(tokenizer, adds_begin=adds_begin), tokenizer, found, "m.gguf")
        assert compared == len(template_check.TEXTS) + len(turns.PROBES) * (1 if name == "brackets" else 2)


def test_a_wrong_file_is_refused():
    tokenizer = templates.tokenizer_with(templates.CHATML)
    found = turns.learn(turns.renderer(tokenizer))
    other = turns.learn(turns.renderer(tokenizer, templates.MARKED))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for prompts, text, said in (
        (
            served(tokenizer, adds_begin=False, template=templates.MARKED),
            found,
            "its chat template writes another prompt than the one of the run for a conversation user",
        ),
        (  # the default system message alone is another
            served(tokenizer, adds_begin=False, template=templates.CHATML.replace("You help", "You assist")),
            found,
            "writes another prompt",
        ),
        (
            served(tokenizer, adds_begin=True),
            found,
            "the prompt of its chat template has '<s>' where the prompt in training had '<|im_start|>' (token 1)",
        ),
        (served(tokenizer, adds_begin=False), other, "the prompt of the Modelfile has '<|user|>'"),
        (
            served(tokenizer, adds_begin=False, change=lambda ids: [*ids, *ids[:1]]),
            found,
            "splits 'Hello world' into other tokens",
        ),
        (
            served(tokenizer, adds_begin=False, change=lambda ids: [7 if token == end else token for token in ids]),
            found,
            "where the prompt in training had '<|im_end|>'",
        ),
        (Prompts(None, False, served(tokenizer, adds_begin=False).tokens), found, "it has no chat template"),
    ):
        with pytest.raises(UserError) as caught:
            template_check.check(prompts, tokenizer, text, "m.gguf")
        assert str(caught.value).startswith("m.gguf would not be served as the model was trained: ") and said in str(
            caught.value
        )
