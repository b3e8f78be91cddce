"""Which settings TRL's trainers read while they train, evaluate and save, and ours do too.

Both train three steps on the embedded model. A setting that TRL's trainer reads and ours does not has to be refused or noted by the
rules of `trl_ext.checks`, as `docs/compatibility.md` lists it.
"""

import dataclasses
import warnings
from functools import cache

import pytest
import trl
from datasets import Dataset
from transformers import AutoTokenizer

from docs.compatibility import COUNTERPARTS, NO_EFFECT, REFUSED, SAME, verdicts
from tests.conftest import pairs
from tests.trainers.helpers import lora
from tests.trainers.sentinel import named_in_source, recording
from trl_ext import demo
from trl_ext.methods import METHODS

PAIRS = pairs(8)
PROMPTS = [{"prompt": pair["prompt"]} for pair in PAIRS]
ROWS = {
    "paired": PAIRS,
    "unpaired": [{"prompt": p["prompt"], "completion": p["chosen"], "label": i % 2 == 0} for i, p in enumerate(PAIRS)],
    "rloo": PROMPTS,
    "grpo": PROMPTS,
    "reward": PAIRS,
    "sft": [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS],
}
THEIRS = {
    "paired": (trl.DPOTrainer, trl.DPOConfig),
    "unpaired": (trl.KTOTrainer, trl.KTOConfig),
    "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
    "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
    "reward": (trl.RewardTrainer, trl.RewardConfig),
    "sft": (trl.SFTTrainer, trl.SFTConfig),
}
SETTINGS = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "include_num_input_tokens_seen": True,
    "warmup_steps": 1,
    "gradient_checkpointing": True,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}
"""Switches are on where other settings are read only beside them."""

SAMPLING = {"max_completion_length": 4, "num_generations": 2, "log_completions": False}

ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Older names of settings, which transformers makes equal to the newer ones."""


def length(completions: list[str], **kwargs) -> list[float]:
    return [float(len(completion)) for completion in completions]


def settings_read(cls: type, config: type, method: str, folder) -> set[str]:
    """The fields that a trainer reads from its construction to its last checkpoint."""
    samples, scores = METHODS[method].samples_completions, METHODS[method].trains_scores
    args, read = recording(config(output_dir=str(folder), **SETTINGS, **(SAMPLING if samples else {})))
    adapter = lora(task_type="SEQ_CLS", modules_to_save=["score"]) if scores else lora()
    rows = ROWS[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cls(
            model=str(demo.MODEL),
            args=args,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(rows[:4]),
            processing_class=AutoTokenizer.from_pretrained(demo.MODEL, padding_side="left" if samples else "right"),
            peft_config=adapter,
            **({"reward_funcs": length} if samples else {}),
        ).train()
    return read | {ALIASES.get(name, name) for name in read} | {old for old, new in ALIASES.items() if new in read}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """By kind of training: what TRL's trainer reads, and what ours does."""

    @cache
    def of(method: str) -> tuple[set[str], set[str]]:
        folder = tmp_path_factory.mktemp(method)
        theirs = settings_read(*THEIRS[method], method, folder / "trl")
        return theirs, settings_read(*METHODS[method].classes(), method, folder / "ours")

    return of


@pytest.mark.parametrize("method", THEIRS)
def test_what_trl_reads_and_ours_does_not_is_refused_or_noted(method, read):
    theirs, ours = read(method)
    config = next(name for name, counterpart in COUNTERPARTS.items() if counterpart == method)
    assert len(theirs) > 80  # of 125 to 165 fields
    said = verdicts(config)
    assert {key: said[key].column for key in theirs - ours if said[key].column not in (REFUSED, NO_EFFECT)} == {}


@pytest.mark.parametrize("config", COUNTERPARTS)
def test_a_setting_called_the_same_is_read(config, read):
    """In the recorded run; or, where its switch was off or only other machines read it, in code that a run would call."""
    method = COUNTERPARTS[config]
    named = read(method)[1] | named_in_source(*METHODS[method].classes())
    same = {key for key, verdict in verdicts(config).items() if verdict.column == SAME}
    assert same - named == set()


def test_a_recording_configuration_is_its_own_class_to_everyone(tmp_path):
    args, read = recording(trl.DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False))
    assert isinstance(args, trl.DPOConfig) and dataclasses.is_dataclass(args) and not read
    args.to_dict()
    assert not read and args.beta == 0.1 and read == {"beta"}
