"""Tokens, what is dropped and what is cut are those of TRL's own trainers and collators."""

import random
from dataclasses import replace

import numpy as np
import pytest
import yaml
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

from tests.conftest import sentence
from tests.trainers.preference.images import image_pairs
from trl_ext import demo
from trl_ext.build.trainer import build_trainer
from trl_ext.data.examples import Examples
from trl_ext.inspection.check import check
from trl_ext.inspection.model_files import ModelFiles
from trl_ext.inspection.tokenise import TOKENISERS, _by_trl
from trl_ext.methods import METHODS
from trl_ext.recipe import load

STOP = "<|end|>"


def conversations(count: int, seed: int = 0) -> list[dict]:
    """Pairs of one or two turns; some are equal, some differ at the end only, a system turn comes and goes."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        turns = [{"role": "user", "content": sentence(rng, 2, 25)}]
        if i % 3 == 0:
            turns += [{"role": "assistant", "content": sentence(rng, 1, 4)}, {"role": "user", "content": "and then"}]
        if i % 4 == 0:
            turns = [{"role": "system", "content": "be brief"}, *turns]
        chosen = sentence(rng, 1, 30)
        rejected = {0: chosen, 1: f"{chosen} too"}.get(i % 5, sentence(rng, 1, 30))
        rows.append(
            {
                "prompt": turns,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    return rows


def plain(rows: list[dict]) -> list[dict]:
    return [{name: " " + turns[-1]["content"] for name, turns in row.items()} for row in rows]


def singles(rows: list[dict]) -> list[dict]:
    return [
        {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
        for row in rows
        for name in ("chosen", "rejected")
    ]


def demonstrations(rows: list[dict]) -> list[dict]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]


def messages(rows: list[dict]) -> list[dict]:
    return [{"messages": row["prompt"] + row["chosen"]} for row in rows]


def texts(rows: list[dict]) -> list[dict]:
    return [{"text": row["chosen"][-1]["content"]} for row in rows]


CASES = {
    "pairs": ("paired", DPOTrainer, DPOConfig, {}, list),
    "pairs, keep_end": ("paired", DPOTrainer, DPOConfig, {"truncation_mode": "keep_end"}, list),
    "pairs, no limit": ("paired", DPOTrainer, DPOConfig, {"max_length": None}, list),
    "pairs, plain": ("paired", DPOTrainer, DPOConfig, {}, plain),
    "answers": ("unpaired", KTOTrainer, KTOConfig, {"loss_type": "apo_zero_unpaired"}, singles),
    "reward": ("reward", RewardTrainer, RewardConfig, {}, list),
    "reward, plain": ("reward", RewardTrainer, RewardConfig, {}, plain),
    "sft": ("sft", SFTTrainer, SFTConfig, {}, demonstrations),
    "sft, keep_end": ("sft", SFTTrainer, SFTConfig, {"truncation_mode": "keep_end"}, demonstrations),
    "sft, all tokens": ("sft", SFTTrainer, SFTConfig, {"completion_only_loss": False}, demonstrations),
    "sft, assistant only": ("sft", SFTTrainer, SFTConfig, {"assistant_only_loss": True}, messages),
    "sft, messages": ("sft", SFTTrainer, SFTConfig, {}, messages),
    "sft, text, other end": ("sft", SFTTrainer, SFTConfig, {"eos_token": "<pad>"}, texts),
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(demo.MODEL))


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(str(demo.MODEL))


def settings(directory, **changes):
    return {
        "output_dir": str(directory),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "max_length": 40,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 2,
        **changes,
    }


def checked(kind, rows, processing_class, args, stops=()):
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    given = Examples(dataset, None, None, np.arange(len(dataset)))
    return check(METHODS[kind], given, processing_class, args, ModelFiles(set(stops), [STOP], None))


@pytest.mark.parametrize("case", CASES)
def test_facts_are_what_trl_feeds_its_model(case, tokenizer, model, tmp_path):
    kind, trainer_class, config_class, changes, shape = CASES[case]
    rows = shape(conversations(30))
    stop = tokenizer.convert_tokens_to_ids(changes.get("eos_token", STOP))
    args = config_class(**settings(tmp_path, **changes))
    tokens, findings, _ = checked(kind, rows, AutoTokenizer.from_pretrained(str(demo.MODEL)), args, {stop})
    facts = findings.facts

    given = str(demo.MODEL) if kind == "reward" else model
    trainer = trainer_class(
        model=given,
        args=config_class(**settings(tmp_path, **changes)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(str(demo.MODEL)),
    )
    kept = np.flatnonzero(~facts.is_dropped)
    assert len(kept) == len(trainer.train_dataset) == findings.kept
    if args.max_length is not None and kind != "sft" and not facts.limits.keep_end:
        assert 0 < len(kept) < len(rows)  # or nothing is shown
    for place, example in zip(kept.tolist(), trainer.train_dataset, strict=True):
        row = tokens[place]
        for name in ("prompt_ids", "chosen_ids", "rejected_ids", "completion_ids"):
            assert row.get(name) == example.get(name)
        batch = trainer.data_collator([example])
        sequences = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], attention(batch), strict=True)]
        assert [len(sequence) for sequence in sequences] == [int(cut[place]) for cut in facts.cut.values()]
        if kind != "reward":
            scored = batch["completion_mask"] if "completion_mask" in batch else batch["labels"] != -100
            if not args.to_dict().get("assistant_only_loss"):  # where the user's turns lie between
                assert scored.sum(dim=1).tolist() == [int(left[place]) for left in facts.kept.values()]
            before = [len(row[name]) + len(row.get("prompt_ids", [])) for name in row if name in ANSWER_COLUMNS]
            is_cut = [length > len(sequence) for length, sequence in zip(before, sequences, strict=True)]
            assert all(cut or sequence[-1] == stop for cut, sequence in zip(is_cut, sequences, strict=True))
            assert bool(facts.flags["eos_lost"][place]) == (any(is_cut) and not facts.limits.keep_end)
            assert not facts.flags["no_eos"][place]
        if len(sequences) == 2:
            flags = {name: bool(facts.flags[name][place]) for name in ("identical", "identical_cut")}
            whole = row["chosen_ids"] == row["rejected_ids"]
            assert flags == {"identical": whole, "identical_cut": sequences[0] == sequences[1] and not whole}


def test_data_is_tokenised_by_the_trainer_that_the_table_names(tokenizer, tmp_path):
    """Whether the kind of training has a loss does not matter."""
    assert {method.tokenised_by for method in METHODS.values()} - {None} == {*TOKENISERS}
    rows, args = Dataset.from_list(conversations(3)), DPOConfig(**settings(tmp_path))
    ways = [
        _by_trl(replace(METHODS["paired"], has_loss=has_loss), rows, tokenizer, args) for has_loss in (True, False)
    ]
    assert ways[0].to_list() == ways[1].to_list() and {*METHODS["paired"].token_columns} <= {*ways[0].column_names}


ANSWER_COLUMNS = ("chosen_ids", "rejected_ids", "completion_ids", "input_ids")


def attention(batch):
    return batch["attention_mask"] if "attention_mask" in batch else batch["input_ids"] >= 0


def test_a_cloned_template_is_the_one_the_trainer_takes(tokenizer, model, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}")
    rows = messages(conversations(6))
    config = settings(tmp_path, chat_template_path=str(template))
    tokens = checked("sft", rows, tokenizer, SFTConfig(**config), {0}).tokenised
    fresh = AutoTokenizer.from_pretrained(str(demo.MODEL))
    assert tokenizer.chat_template == fresh.chat_template  # the one given is left as it is
    trainer = SFTTrainer(
        model=model, args=SFTConfig(**config), train_dataset=Dataset.from_list(rows), processing_class=fresh
    )
    assert [ids[:40] for ids in tokens["input_ids"]] == trainer.train_dataset["input_ids"][:]


def test_prompts_are_those_of_a_rollout(tokenizer, tmp_path):
    args = RLOOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, max_completion_length=20)
    for rows in (conversations(9), plain(conversations(9))):
        prompts = [{"prompt": row["prompt"]} for row in rows]
        tokens = checked("ppo", prompts, tokenizer, args, {0}).tokenised
        trainer = RLOOTrainer.__new__(RLOOTrainer)
        trainer.processing_class, trainer.chat_template_kwargs = tokenizer, {}
        assert tokens["prompt_ids"][:] == trainer._tokenize_prompts([row["prompt"] for row in rows])[0]


def test_images_go_through_trls_collator(tiny_vlm, tmp_path):
    processor = AutoProcessor.from_pretrained(tiny_vlm)
    dataset = image_pairs(5)
    args = DPOConfig(**settings(tmp_path, max_length=16))
    tokens, findings, _ = checked("paired", dataset, processor, args, {3})
    batch = DataCollatorForVisionPreference(processor=processor, max_length=16)([dataset[0]])
    for name, ids, mask in zip(("chosen", "rejected"), batch["input_ids"], batch["attention_mask"], strict=True):
        whole = (tokens[0]["prompt_ids"] + tokens[0][f"{name}_ids"])[:16]
        assert ids[mask.bool()].tolist() == whole
        assert int(findings.facts.cut[name][0]) == len(whole)
    assert isinstance(dataset[0]["images"][0], Image.Image)


@pytest.mark.parametrize("name", ["dpo", "kto", "reward", "sft"])
def test_a_run_trains_on_what_trl_would(name, tmp_path, monkeypatch, model):
    """The trainer of a recipe is handed tokens; they, and what is left out, are TRL's own."""
    monkeypatch.chdir(tmp_path)
    Dataset.from_list(conversations(30)).to_json("pairs.jsonl")
    recipe = {"model_name_or_path": "embedded", "dataset_name": "pairs.jsonl", "max_length": 40, "use_peft": True}
    recipe |= {"trainer": name} if name in ("reward", "sft") else {"loss": name}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe | {"lora_target_modules": "all-linear"}))
    built = build_trainer(load("small.yaml"), tmp_path / "out").trainer
    trainer_class, config_class, rows, changes = {
        "dpo": (DPOTrainer, DPOConfig, list, {}),
        "kto": (KTOTrainer, KTOConfig, singles, {"loss_type": "apo_zero_unpaired"}),
        "reward": (RewardTrainer, RewardConfig, list, {}),
        "sft": (SFTTrainer, SFTConfig, demonstrations, {}),
    }[name]
    theirs = trainer_class(
        model=str(demo.MODEL) if name == "reward" else model,
        args=config_class(**settings(tmp_path, **changes)),
        train_dataset=Dataset.from_list(rows(conversations(30))),
        processing_class=AutoTokenizer.from_pretrained(str(demo.MODEL)),
    )
    columns = [c for c in theirs.train_dataset.column_names if c.endswith("_ids") or c in ("labels", "label")]
    assert columns
    for column in columns:
        assert built.train_dataset[column][:] == theirs.train_dataset[column][:]
