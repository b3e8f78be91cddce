"""How many tokens a step computes where examples have prompts or completions in common."""

from collections import Counter
from itertools import combinations

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build
from trl_ext.batching.mismatched import mismatched
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)


@pytest.fixture
def computed():
    """Watches a trainer's model and counts the tokens of its forward passes, by what they are for."""

    def watch(trainer) -> Counter:
        tokens = Counter()
        adapter = next(m for m in trainer.model.modules() if isinstance(m, BaseTunerLayer))

        def count(module, args, kwargs):
            name = "gradient" if torch.is_grad_enabled() else "reference" if adapter.disable_adapters else "policy"
            tokens[name] += kwargs["input_ids"].numel()

        trainer.model.get_base_model().model.register_forward_pre_hook(count, with_kwargs=True)
        return tokens

    return watch


def tree_tokens(completions_by_prompt: dict[tuple, set]) -> int:
    """A prompt of P tokens costs P − 1, each completion of C tokens C + 1 for the prompt's last token."""
    return sum(
        len(prompt) - 1 + sum(1 + len(completion) for completion in completions)
        for prompt, completions in completions_by_prompt.items()
    )


def by_prompt(sequences: list[tuple[list[int], list[int]]]) -> dict[tuple, set]:
    grouped = {}
    for prompt, completion in sequences:
        grouped.setdefault(tuple(prompt), set()).add(tuple(completion))
    return grouped


@pytest.mark.parametrize("is_cached", [True, False])
def test_the_reference_reads_matched_and_mismatched_completions_of_a_prompt_in_one_pass(
    is_cached, computed, tiny_model, tmp_path
):
    single = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for pair in pairs(8, longest=6)
        for side in ("chosen", "rejected")
    ]
    settings = arguments(tmp_path, max_steps=1, per_device_train_batch_size=16, max_length=None)
    config = UnpairedPreferenceConfig(**settings, row_tokens=5000, reference_cache=is_cached)
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=single)
    examples = [dict(row) for row in trainer.train_dataset]
    trainer.references.open()
    trainer.rows.prepare(examples)
    tokens = computed(trainer)
    trainer.training_step(trainer.model, [dict(example) for example in examples])
    matched = [(example["prompt_ids"], example["completion_ids"]) for example in examples]
    partners = [(pair["prompt_ids"], pair["completion_ids"]) for pair in mismatched(examples)]
    expected = {
        "gradient": tree_tokens(by_prompt(matched)),
        "policy": tree_tokens(by_prompt(partners)),
        "reference": tree_tokens(by_prompt(matched + partners)),
    }
    assert tokens == expected
    assert expected["reference"] < expected["gradient"] + expected["policy"]
    if is_cached:
        cache = trainer.references.cache
        assert (cache.hits, cache.misses) == (0, 32)
        trainer.training_step(trainer.model, [dict(example) for example in examples])
        assert tokens == expected | {name: 2 * expected[name] for name in ("gradient", "policy")}
        assert (cache.hits, cache.misses) == (0, 32)


def test_all_pairs_of_a_prompts_answers_compute_each_answer_once(computed, tiny_model, tmp_path):
    """Four ranked answers make six pairs."""
    answers = [" a", " to be", " for that which", " they have there one"]
    ranked = [{"prompt": "is that", "chosen": a, "rejected": b} for a, b in combinations(answers, 2)]
    settings = arguments(tmp_path, max_steps=1, per_device_train_batch_size=6)
    config = PairedPreferenceConfig(**settings, row_tokens=5000, reference_cache=False)
    trainer = build(PairedPreferenceTrainer, config, tiny_model, examples=ranked)
    examples = [dict(row) for row in trainer.train_dataset]
    trainer.references.open()
    trainer.rows.prepare(examples)
    tokens = computed(trainer)
    trainer.training_step(trainer.model, examples)
    # prompt 2 tokens; answers of 1, 2, 3 and 4 tokens and an end token: 1 + (1+2) + (1+3) + (1+4) + (1+5)
    assert tokens == {"gradient": 19, "reference": 19}
