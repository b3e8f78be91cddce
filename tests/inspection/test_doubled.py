"""Ends, beginnings and prompts that would stand twice: what is removed, what is reported, and the tokens that TRL then makes."""

from types import SimpleNamespace

import datasets
import pytest
import yaml
from datasets import Dataset
from tokenizers.processors import Sequence, TemplateProcessing
from trl import RLOOTrainer

from tests.inspection.templates import ALTERNATING, CHATML, DATED, STRIPPING, tokenizer
from trl_ext.inspection import doubled, special_tokens, token_ends
from trl_ext.inspection.tokenise import tokenise
from trl_ext.methods import METHODS


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def pair(prompt, chosen, rejected="No"):
    if isinstance(prompt, list):
        chosen, rejected = [assistant(chosen)], [assistant(rejected)]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def removed(rows, made):
    dataset, sentences = doubled.remove(Dataset.from_list(rows), made, [made.eos_token])
    return dataset.to_list(), sentences


def sequences(rows, made, method="paired"):
    """Prompt and chosen sequence as text, and the findings about their ends, from TRL's own tokens."""
    args = SimpleNamespace(
        dataset_num_proc=None, max_length=None, truncation_mode="keep_start", eos_token=None, chat_template_path=None
    )
    tokenised = tokenise(METHODS[method], Dataset.from_list(rows), made, args)
    is_chat = not isinstance(rows[0]["prompt"], str)
    flags = token_ends.flags(METHODS[method], tokenised, made, {made.eos_token_id}, is_chat)
    texts = [made.decode(row["prompt_ids"] + row["chosen_ids"]) for row in tokenised]
    return texts, {name: found.tolist() for name, found in flags.items() if found.any()}


def appending(made, *, is_nested=False):
    """The tokenizer with a beginning and an end around every text, as Llama's with `add_eos_token` has them."""
    ids = [("<s>", made.bos_token_id), ("</s>", made.convert_tokens_to_ids("</s>"))]
    step = TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids)
    made.backend_tokenizer.post_processor = Sequence([step]) if is_nested else step
    return made


@pytest.mark.parametrize("chosen", ["Yes</s>\n", "Yes</s></s>", "Yes</s> </s>\n\n"])
def test_a_plain_completion_ends_once(chosen):
    made = tokenizer(None)
    rows = [pair("Why?", chosen), pair("Why?", "Yes</s>"), pair("Why?", "Yes")]
    texts, flags = sequences(rows, made)
    assert texts[0] != "Why?Yes</s>" and flags == {"double_end": [True, False, False]}
    rows, sentences = removed(rows, made)
    texts, flags = sequences(rows, made)
    assert texts == ["Why?Yes</s>"] * 3 and flags == {}
    assert sentences == [
        "1 row (first: row 0) had text that ends with `</s>`, which is added to it; the text's own end was removed."
    ]


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (DATED, "<|eot|>"), (ALTERNATING, "<|/t|>")])
def test_a_turn_ends_once(template, end):
    made = tokenizer(template)
    rows = [pair([user(f"q{end}"), assistant(f"a{end}\n"), user("r")], f"Yes{end}"), pair([user("q")], "Yes")]
    assert sequences(rows, made)[1] == {"double_end": [True, False]}
    clean, sentences = removed(rows, made)
    assert clean == [pair([user("q"), assistant("a"), user("r")], "Yes"), rows[1]]
    assert sequences(clean, made)[1] == {} and f"1 row (first: row 0) had text that ends with `{end}`" in sentences[0]


def test_text_that_only_looks_alike_stays():
    """Another family's end token is text, and an end inside of a text is not its end."""
    for template in (CHATML, None):
        prompt = "Why, tell me?" if template is None else [user("Why, tell me?")]
        rows = [pair(prompt, "Yes<eos>"), pair(prompt, "Yes</s> and no"), pair(prompt, "Yes.")]
        assert removed(rows, tokenizer(template)) == (rows, [])


def test_the_beginning_stands_once():
    made = appending(tokenizer(None))
    special_tokens.stop_appending_end(made)
    rows = [pair("<s>Why?", "Yes"), pair("Why?", "Yes")]
    assert sequences(rows, made)[1] == {"double_beginning": [True, False]}
    rows, sentences = removed(rows, made)
    assert sequences(rows, made) == (["<s>Why?Yes</s>"] * 2, {}) and "begins with `<s>`" in sentences[0]
    # A tokenizer that adds none leaves it to the text.
    assert removed([pair("<s>Why?", "Yes")], tokenizer(None)) == ([pair("<s>Why?", "Yes")], [])
    # A template that writes it.
    rows = [pair([user("<s>q")], "Yes")]
    clean, _ = removed(rows, tokenizer(DATED))
    assert clean == [pair([user("q")], "Yes")]
    assert removed(rows, tokenizer(CHATML))[0] == rows


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_tokenizer_that_appends_the_end(is_nested, tmp_path):
    made = appending(tokenizer(None), is_nested=is_nested)
    trainer = SimpleNamespace(processing_class=made, chat_template_kwargs={})
    assert made.decode(RLOOTrainer._tokenize_prompts(trainer, ["Why?"])[0][0]) == "<s>Why?</s>"
    texts, flags = sequences([pair("Why?", "Yes")], made)
    assert texts == ["<s>Why?Yes</s></s>"] and flags == {"double_end": [True]}
    assert special_tokens.appends_end(made)
    special_tokens.stop_appending_end(made)
    assert made.decode(RLOOTrainer._tokenize_prompts(trainer, ["Why?"])[0][0]) == "<s>Why?"
    assert sequences([pair("Why?", "Yes")], made) == (["<s>Why?Yes</s>"], {})
    made.save_pretrained(tmp_path)
    assert not special_tokens.appends_end(type(made).from_pretrained(tmp_path))
    assert not special_tokens.appends_end(tokenizer(None))


def test_a_recipe_loads_such_a_tokenizer_without_the_end(tiny_model, tmp_path):
    from transformers import AutoConfig, AutoTokenizer

    from trl_ext.build.tokenizer import load_tokenizer
    from trl_ext.recipe import load

    AutoConfig.from_pretrained(tiny_model).save_pretrained(tmp_path)
    appending(AutoTokenizer.from_pretrained(tiny_model)).save_pretrained(tmp_path)
    (tmp_path / "r.yaml").write_text(
        yaml.safe_dump({"model_name_or_path": str(tmp_path), "dataset_name": "embedded", "use_peft": True})
    )
    statements = []
    made = load_tokenizer(load(tmp_path / "r.yaml", {}), statements)
    assert made("the a")["input_ids"][-1] != made.eos_token_id and made("the a")["input_ids"][0] == made.bos_token_id
    assert statements == [
        "The tokenizer put `</s>` after every text, also after prompts. This was switched off: the trainer ends completions itself."
    ]


QUESTION = "What is the answer?"


@pytest.mark.parametrize("is_chat", [False, True])
def test_completions_that_begin_with_their_prompt(is_chat):
    made = tokenizer(CHATML if is_chat else None)

    def row(i, chosen, rejected):
        prompt = f"{QUESTION} {i}"
        return pair([user(prompt)] if is_chat else prompt, chosen.format(prompt), rejected.format(prompt))

    rows = [row(i, "{} Yes", "{} No") for i in range(20)]
    clean, sentences = removed(rows, made)
    assert clean == [row(i, "Yes" if is_chat else " Yes", "No" if is_chat else " No") for i in range(20)]
    assert sentences == [
        "20 rows (first: row 0) had the prompt at the beginning of the completions; it was removed from them."
    ]
    # A few rows may quote the question.
    some = [row(i, "{} Yes", "{} No" if i == 7 else "No") for i in range(20)]
    clean, sentences = removed(some, made)
    assert clean == some and len(sentences) == 1
    assert sentences[0].startswith("1 row (first: row 7) had the prompt at the beginning of the completions; it stays")


def test_short_prompts_are_no_copies():
    rows = [pair("The sky", "The sky is blue", "The sky is red")]
    assert removed(rows, tokenizer(None)) == (rows, [])


def test_a_template_applied_by_hand_to_text():
    """Each completion holds the whole conversation, as `apply_chat_template(tokenize=False)` of it gives."""
    made = tokenizer(CHATML)

    def written(*turns, **options):
        return made.apply_chat_template(list(turns), tokenize=False, **options)

    rows = [
        {
            "prompt": written(user(f"q {i}"), add_generation_prompt=True),
            "chosen": written(user(f"q {i}"), assistant("Yes")),
            "rejected": written(user(f"q {i}"), assistant("No")),
        }
        for i in range(3)
    ]
    clean, _ = removed(rows, made)
    texts, flags = sequences(clean, made)
    assert texts[0] == written(user("q 0"), assistant("Yes")).strip() and flags == {}


def test_a_template_applied_by_hand_to_messages_is_reported():
    rows = [
        pair([user("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n")], "Yes<|im_end|>"),
        pair([user("q")], "Yes"),
    ]
    _, sentences = removed(rows, tokenizer(CHATML))
    assert any("1 row (first: row 0) had messages that contain `<|im_start|>`" in line for line in sentences)


def test_prompts_that_end_a_sequence_are_flagged():
    made = tokenizer(None)
    rows = Dataset.from_list([{"prompt": "Why?</s>"}, {"prompt": "Why?"}])
    args = SimpleNamespace(chat_template_kwargs=None)
    tokenised = tokenise(METHODS["ppo"], rows, made, args)
    flags = token_ends.flags(METHODS["ppo"], tokenised, made, {made.eos_token_id}, False)
    assert flags["prompt_ended"].tolist() == [True, False] and not flags["double_end"].any()


@pytest.mark.parametrize(
    ("template", "eos", "expected"),
    [
        (CHATML, "<|im_end|>", None),
        (CHATML, "</s>", "ends a turn with `<|im_end|>`, but the model stops at `</s>`"),
        (STRIPPING.replace(" + '<|end|>'", ""), "</s>", "writes no token after a turn, but the model stops at `</s>`"),
        (None, "</s>", None),
    ],
)
def test_templates_whose_turns_do_not_end(template, eos, expected):
    made = tokenizer(template, eos)
    sentence = special_tokens.on_end_of_turn(made, {made.eos_token_id})
    assert sentence is None if expected is None else expected in sentence


def test_a_stream_is_cleaned_as_its_beginning_is():
    rows = [pair("Why?", "Yes</s>\n"), pair("Why?", "Yes")]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    cleaned, sentences = doubled.remove(stream, tokenizer(None), ["</s>"])
    assert list(cleaned) == [pair("Why?", "Yes"), pair("Why?", "Yes")]
    assert sentences[0].startswith("Of the first 2 rows, 1 row (first: row 0) had text that ends with")


def test_demonstrations_and_labelled_completions():
    made = tokenizer(CHATML)
    assert removed([{"messages": [user("q"), assistant("a<|im_end|>")]}], made)[0] == [
        {"messages": [user("q"), assistant("a")]}
    ]
    made = tokenizer(None)
    assert removed([{"text": "q a</s>\n"}], made)[0] == [{"text": "q a"}]
    row = {"prompt": QUESTION, "completion": f"{QUESTION} Yes</s></s>", "label": True}
    assert removed([row], made)[0] == [{"prompt": QUESTION, "completion": " Yes", "label": True}]
