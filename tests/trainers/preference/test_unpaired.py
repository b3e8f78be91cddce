"""What unpaired training adds: partners from the step, mixed classes, automatic weights, any batch size."""

import random
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, skip_first_batches
from datasets import Dataset
from torch.utils.data import BatchSampler

from tests.conftest import pairs
from tests.trainers.helpers import arguments, build, relative_difference, weights
from trl_ext.batching.mismatched import mismatched
from trl_ext.trainers import UnpairedPreferenceConfig, UnpairedPreferenceTrainer
from trl_ext.trainers.preference import fixed_pairs
from trl_ext.trainers.preference.class_balance import ClassMixedSampler


def example(prompt: int, completion: int) -> dict:
    return {"prompt_ids": [prompt, 7], "completion_ids": [completion, 9]}


def as_set(found: list[dict]) -> set:
    return {(tuple(pair["prompt_ids"]), tuple(pair["completion_ids"])) for pair in found}


def test_no_completion_meets_its_own_prompt():
    # two completions of each prompt, as unpairing makes them: a rotation by one would match half of them
    examples = [example(prompt, 10 * prompt + k) for prompt in range(6) for k in range(2)]
    own = as_set(examples)
    found = mismatched(examples)
    assert len(found) == 12 and not as_set(found) & own
    assert Counter(p["completion_ids"][0] // 10 for p in found) == Counter(dict.fromkeys(range(6), 2))


def test_partners_depend_on_the_step_alone_not_on_its_order():
    examples = [example(prompt, 100 + prompt) for prompt in range(9)]
    shuffled = random.Random(1).sample(examples, len(examples))
    assert as_set(mismatched(examples)) == as_set(mismatched(shuffled))


def test_a_prompt_that_fills_most_of_a_step_loses_only_the_matches_it_cannot_avoid():
    examples = [example(0, k) for k in range(5)] + [example(1, 50), example(2, 51)]
    found = mismatched(examples)
    assert found and not as_set(found) & {((0, 7), (k, 9)) for k in range(5)}
    assert mismatched([example(0, 1), example(0, 2)]) == [] == mismatched([])


def test_fixed_pairs_are_drawn_from_the_whole_dataset_and_not_of_their_own_prompt():
    rows = [{**example(prompt, 10 * prompt + k), "label": k == 0} for prompt in range(6) for k in range(2)]
    found = fixed_pairs.add_pairs(Dataset.from_list(rows))
    assert found.remove_columns("KL_completion_ids").to_list() == rows
    assert all(row["KL_completion_ids"][0] // 10 != row["prompt_ids"][0] for row in found)
    assert sorted(row["KL_completion_ids"] for row in found) == sorted(row["completion_ids"] for row in rows)
    crowded = Dataset.from_list([example(0, k) for k in range(5)] + [example(1, 50), example(2, 51)])
    assert [row["KL_completion_ids"] == [] for row in fixed_pairs.add_pairs(crowded)].count(True) == 3
    alone = fixed_pairs.add_pairs(Dataset.from_list([example(0, 1), example(0, 2)]))
    assert alone["KL_completion_ids"][:] == [[], []]


def test_full_fine_tuning_with_precomputed_values_in_shuffled_epochs_and_evaluations(tiny_model, tmp_path):
    held_out = Dataset.from_list(pairs(3, seed=9))
    config = UnpairedPreferenceConfig(**arguments(tmp_path, precompute_ref_log_probs=True, max_steps=4))
    trainer = build(
        UnpairedPreferenceTrainer,
        config,
        tiny_model,
        examples=unpaired(24, 3),
        peft_config=None,
        eval_dataset={"one": held_out, "two": held_out.select([0])},  # the second has no mismatched pairs
    )
    before = trainer.evaluate()
    assert before["eval_one_loss"] == pytest.approx(0.5, abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_one_loss"] != before["eval_one_loss"] and after["eval_kl"] == 0  # of the second
    with pytest.raises(ValueError, match="Cannot compute reference log-probs for a dataset passed to"):
        trainer.evaluate(held_out)


def test_every_window_of_an_epoch_holds_both_classes():
    labels = [True] * 900 + [False] * 100  # blocks, as unpairing leaves them
    sampler = ClassMixedSampler(labels, seed=3)
    order = list(sampler)
    assert sorted(order) == list(range(1000))
    undesirable = [sum(not labels[i] for i in order[start : start + 50]) for start in range(0, 1000, 50)]
    assert all(3 <= count <= 7 for count in undesirable)  # 5 expected; at random, 0.5 % of windows hold none
    sampler.set_epoch(1)
    again = list(sampler)
    assert again != order
    sampler.set_epoch(0)
    assert list(sampler) == order


def unpaired(count: int, share: int) -> list[dict]:
    """`count` examples, every `share`-th desirable, in two blocks."""
    rows = [
        {"prompt": p["prompt"], "completion": p["chosen"], "label": i % share == 0} for i, p in enumerate(pairs(count))
    ]
    return sorted(rows, key=lambda row: row["label"])


def test_automatic_weights_balance_the_classes(tiny_model, tmp_path):
    config = UnpairedPreferenceConfig(**arguments(tmp_path), desirable_weight="auto", undesirable_weight="auto")
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=unpaired(24, 4))
    desirable, undesirable = (trainer.loss.hyperparameters[f"{c}_weight"] for c in ("desirable", "undesirable"))
    assert (desirable, undesirable) == (3.0, 1.0)
    assert desirable * 6 == undesirable * 18
    config = UnpairedPreferenceConfig(**arguments(tmp_path), desirable_weight="auto", undesirable_weight=2.0)
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=unpaired(24, 4))
    assert trainer.loss.hyperparameters["desirable_weight"] == 6.0


def test_automatic_weights_with_one_class_say_so(tiny_model, tmp_path):
    config = UnpairedPreferenceConfig(**arguments(tmp_path), desirable_weight="auto")
    with pytest.raises(ValueError, match="24 desirable and 0 undesirable"):
        build(UnpairedPreferenceTrainer, config, tiny_model, examples=unpaired(24, 1))


def test_one_example_per_step_trains_with_a_zero_baseline(tiny_model, tmp_path, capsys):
    config = UnpairedPreferenceConfig(**arguments(tmp_path, per_device_train_batch_size=1))
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=unpaired(8, 2))
    trainer.train()
    assert [log["kl"] for log in trainer.recorder.logs] == [0.0, 0.0, 0.0]
    assert capsys.readouterr().out.count("KTO baseline: all examples of a step have the same prompt") == 1


def test_the_baseline_is_the_clamped_mean_over_the_whole_step(tiny_model, tmp_path):
    """z from plain forwards of the policy and the base on the same mismatched pairs, one sequence at a time."""
    config = UnpairedPreferenceConfig(**arguments(tmp_path, per_device_train_batch_size=8), row_tokens=40)
    trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=unpaired(8, 2))
    examples = list(trainer.train_dataset)
    z = trainer.row_objective.step_tensors(examples)["z_ref"]

    @torch.no_grad()
    def logp(pair):
        ids = torch.tensor([(pair["prompt_ids"] + pair["completion_ids"])[:24]])
        logps = trainer.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).squeeze(1)
        return logps[len(pair["prompt_ids"]) - 1 :].sum()

    ratios = []
    for pair in mismatched(examples):
        policy = logp(pair)
        with trainer.model.disable_adapter():
            ratios.append(policy - logp(pair))
    mean = torch.stack(ratios).mean()
    assert z == pytest.approx(max(mean.item(), 0.0), abs=1e-5)
    assert z > 0


def test_a_resume_in_a_later_epoch_goes_on_in_that_epochs_order(tiny_model, tmp_path):
    def run(checkpoint=None):
        config = UnpairedPreferenceConfig(**arguments(tmp_path, max_steps=6, save_strategy="steps", save_steps=1))
        trainer = build(UnpairedPreferenceTrainer, config, tiny_model, examples=unpaired(24, 3))
        trainer.train(resume_from_checkpoint=checkpoint)
        return weights(trainer)

    whole = run()
    assert relative_difference(run(str(tmp_path / "checkpoint-4")), whole) < 1e-6  # 3 steps an epoch


def test_accelerate_still_hides_the_sampler_of_a_resumed_process_among_several():
    """Once it does not, the override of `_run_epoch` can go."""
    sampler = ClassMixedSampler([True, False] * 8, seed=0)
    batches = BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), num_processes=2, process_index=0)
    loader = DataLoaderShard(list(range(16)), batch_sampler=batches)
    loader.set_epoch(1)
    assert sampler.epoch == 1
    skip_first_batches(loader, 1).set_epoch(2)
    assert sampler.epoch == 1
