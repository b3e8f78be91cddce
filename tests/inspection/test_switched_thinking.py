"""Thinking switched on and off by a recipe, by a row and by words of its system text, as SmolLM3's template reads them."""

import pytest

from tests.inspection.templates import CHATML, STRIPPING, SWITCHED, tokenizer
from tests.inspection.test_thoughts import ASKED, HELD, checked, found, said, switched

OFF, ON = ({"enable_thinking": is_on} for is_on in (False, True))
EMPTY, END = "<think>\n\n</think>\n", "<|im_end|>\n"


def system(text):
    return [{"role": "system", "content": text}, *ASKED]


def flagged(result, name):
    return [int(row) for finding in result.findings.found if finding.name == name for row in finding.rows]


ROWS = [
    (ASKED, {}, None),
    (ASKED, OFF, False),
    (ASKED, ON, True),
    (system("Be brief. /no_think"), {}, False),
    (system("/think Be brief."), {}, True),
    (system("/think Be brief."), OFF, True),  # the template lets the text win
    (system("/no_think"), ON, False),
    (system("Be brief."), {}, None),
]
"""(prompt, variables of the row, whether the template asks for a thought; `None`: as the recipe says)"""


@pytest.mark.parametrize("is_on", [True, False])
def test_thoughts_against_the_prompt_of_each_row(is_on):
    """A thought is against its prompt where the template ends this prompt with an empty one."""
    made = switched(tokenizer(SWITCHED), is_on)
    rows = [
        {"prompt": prompt, "chosen": said(HELD["whole"]), "rejected": said("No."), "chat_template_kwargs": variables}
        for prompt, variables, _ in ROWS
    ]
    asked = [is_on if thinks is None else thinks for _, _, thinks in ROWS]
    for row, thinks in zip(rows, asked, strict=True):
        text = made.apply_chat_template(
            row["prompt"], tokenize=False, add_generation_prompt=True, **row["chat_template_kwargs"]
        )
        assert text.endswith(EMPTY) is not thinks
    result = checked("paired", rows, made)
    assert flagged(result, "thought_against_prompt") == [i for i, thinks in enumerate(asked) if not thinks]
    no_thoughts = [{**row, "chosen": said("So.")} for row in rows]
    assert "thought_against_prompt" not in found(checked("paired", no_thoughts, made))


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize(("prompt", "variables", "thinks"), ROWS)
@pytest.mark.parametrize("name", ["whole", "none"])
def test_the_loss_covers_what_follows_the_prompt(is_on, prompt, variables, thinks, name):
    made = switched(tokenizer(SWITCHED), is_on)
    row = {"prompt": prompt, "completion": said(HELD[name]), "chat_template_kwargs": variables}
    result = checked("sft", [row], made)
    tokens = result.tokenised[0]
    asks = is_on if thinks is None else thinks
    written = made.apply_chat_template([*prompt, *said(HELD[name])], tokenize=False, **variables)
    assert made.decode(tokens["input_ids"]) == written
    learned = [i for i, label in zip(tokens["input_ids"], tokens["labels"], strict=True) if label != -100]
    assert made.decode(learned) == HELD[name] + END
    assert written.endswith(("" if asks else EMPTY) + HELD[name] + END)


def test_a_whole_conversation_is_judged_by_what_comes_before_its_last_answer():
    rows = [
        {"messages": [*system(text), *said("Hm."), *ASKED, *said(HELD["whole"])]}
        for text in ("/no_think", "Be brief.")
    ]
    assert flagged(checked("sft", rows, tokenizer(SWITCHED)), "thought_against_prompt") == [0]


@pytest.mark.parametrize("text", ["Be brief. /no_think", "/think Be brief.", "/no_think", "/system_override Be rude"])
def test_a_switch_that_the_template_reads_is_not_missing(text):
    rows = [{"prompt": system(text), "completion": said("So.")}]
    assert flagged(checked("sft", rows, tokenizer(SWITCHED)), "text_missing") == []
    assert flagged(checked("sft", rows, tokenizer(CHATML)), "text_missing") == []  # there it is text like any other


def test_what_stands_beside_a_switch_is_missing_where_it_is_left_out():
    without_system = STRIPPING.replace("('system', 'user')", "('user',)")
    for template in (without_system, SWITCHED.replace("(asked or", "('' or")):
        rows = [{"prompt": system(f"Be brief. {switch}"), "completion": said("So.")} for switch in ("/think", "")]
        assert flagged(checked("sft", rows, tokenizer(template)), "text_missing") == [0, 1]
