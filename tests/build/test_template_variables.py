"""`chat_template_kwargs` of a recipe, for every kind of training: tokens of TRL's tokenisation with the same variables in each row."""

import json
import shutil

import pytest
import yaml
from transformers import AutoTokenizer
from trl import chat_template_utils

from trl_ext import demo
from trl_ext.build.trainer import build_trainer
from trl_ext.recipe import load
from trl_ext.support.errors import UserError

QUESTION = [{"role": "user", "content": "Why?"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in ("<think>\nhm\n</think>\n\nSo.", "Because."))
OFF = {"enable_thinking": False}
PAIRS = [{"prompt": QUESTION, "chosen": GOOD, "rejected": BAD}, {"prompt": QUESTION, "chosen": BAD, "rejected": GOOD}]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """The demo model with Qwen3's chat template."""
    folder = tmp_path_factory.mktemp("thinker")
    shutil.copytree(demo.MODEL, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(chat_template_utils.qwen3_chat_template, encoding="utf-8")
    return folder


def built(tmp_path, thinker, rows, **settings):
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    recipe = {
        "model_name_or_path": str(thinker),
        "dataset_name": str(tmp_path / "rows.jsonl"),
        "use_peft": True,
        "max_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "chat_template_kwargs": OFF,
        **settings,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return build_trainer(load(tmp_path / "recipe.yaml"), tmp_path / "run").trainer


def ids(thinker, messages, template=None, **given):
    made = AutoTokenizer.from_pretrained(thinker)
    return made.apply_chat_template(messages, chat_template=template, return_dict=False, **{**OFF, **given})


def test_preferences_and_the_saved_tokenizer(tmp_path, thinker):
    on = {**PAIRS[0], "chat_template_kwargs": {"enable_thinking": True}}  # a row's own value wins
    other = {**PAIRS[1], "chat_template_kwargs": {"x": 1}}
    trainer = built(tmp_path, thinker, [PAIRS[0], other, on], loss="dpo")
    for place, (is_on, best, worst) in enumerate([(False, GOOD, BAD), (False, BAD, GOOD), (True, GOOD, BAD)]):
        prompt = ids(thinker, QUESTION, add_generation_prompt=True, enable_thinking=is_on)
        chosen, rejected = ids(thinker, QUESTION + best), ids(thinker, QUESTION + worst)
        # The completions begin where the sequences differ: an empty thought in the prompt, another one in the answer.
        end = next(
            (i for i, tokens in enumerate(zip(prompt, chosen, rejected, strict=False)) if len(set(tokens)) > 1),
            len(prompt),
        )
        row = trainer.train_dataset[place]
        assert (row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) == (
            prompt[:end],
            chosen[end:],
            rejected[end:],
        )
    trainer.save_model(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False) == ids(
        thinker, QUESTION, add_generation_prompt=True
    )


@pytest.mark.parametrize("path", [None, "chat_template.jinja"])
def test_rewards(tmp_path, thinker, path):
    named = {} if path is None else {"chat_template_path": str(thinker / path)}
    trainer = built(tmp_path, thinker, PAIRS, trainer="reward", **named)
    assert trainer.train_dataset["chosen_ids"][:] == [ids(thinker, QUESTION + answer) for answer in (GOOD, BAD)]
    prompt = trainer.processing_class.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert prompt == ids(thinker, QUESTION, add_generation_prompt=True)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", [None, "chat_template.jinja"])
def test_the_assistants_turns_alone(tmp_path, thinker, is_streamed, path):
    """TRL replaces a template that it knows by its version with marks around the assistant's tokens."""
    named = {} if path is None else {"chat_template_path": str(thinker / path)}
    rows = [{"messages": QUESTION + GOOD}, {"messages": QUESTION + BAD}]
    trainer = built(
        tmp_path, thinker, rows, trainer="sft", assistant_only_loss=True, dataset_streaming=is_streamed, **named
    )
    first = next(iter(trainer.train_dataset))
    template = chat_template_utils.qwen3_training_chat_template
    made = AutoTokenizer.from_pretrained(thinker).apply_chat_template(
        rows[0]["messages"], chat_template=template, return_dict=True, return_assistant_tokens_mask=True, **OFF
    )
    assert first["input_ids"] == made["input_ids"]
    labels = [token if kept else -100 for token, kept in zip(made["input_ids"], made["assistant_masks"], strict=True)]
    assert first["labels"] == labels if "labels" in first else first["assistant_masks"] == made["assistant_masks"]
    prompt = trainer.processing_class.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert prompt == ids(thinker, QUESTION, add_generation_prompt=True)


@pytest.mark.parametrize("text", [True, False])
def test_rows_without_variables_or_without_one_of_them(tmp_path, thinker, text):
    """TRL passes on null, and Jinja takes it for false; SmolLM3's template thinks where nothing is given."""
    template = "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}{{ enable_thinking }}|{{ x }}"
    model = tmp_path / "model"
    shutil.copytree(thinker, model)
    (model / "chat_template.jinja").write_text(template + "{% for m in messages %}{{ m.content }}{% endfor %}")
    values = [None, {"x": 1}, {"enable_thinking": False}, {}]
    given = [json.dumps(value) if text and value is not None else value for value in values]
    rows = [{**PAIRS[i % 2], "chat_template_kwargs": value} for i, value in enumerate(given)]
    for trainer in ("reward", "sft"):
        made = built(tmp_path, model, rows, trainer=trainer, chat_template_kwargs=None).train_dataset
        tokens = made["chosen_ids" if trainer == "reward" else "input_ids"][:]
        written = ["".join(AutoTokenizer.from_pretrained(model).decode(row).split()) for row in tokens]
        assert [row.partition("Why")[0] for row in written] == ["True|", "True|1", "False|", "True|"]


def test_variables_that_are_no_mapping(tmp_path, thinker):
    rows = [PAIRS[0], {**PAIRS[1], "chat_template_kwargs": "off"}]
    with pytest.raises(UserError, match=r"rows.jsonl.*: `chat_template_kwargs` of row 1 is 'off'. Give a mapping"):
        built(tmp_path, thinker, rows, loss="dpo")


@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_prompts(tmp_path, thinker, trainer):
    made = built(tmp_path, thinker, [{"prompt": QUESTION}] * 8, trainer=trainer, reward_funcs=["sentiment"])
    prompt = ids(thinker, QUESTION, add_generation_prompt=True)
    assert made._tokenize_prompts([QUESTION])[0] == [prompt]
