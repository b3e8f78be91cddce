"""What the trainers override of TRL's and transformers' is what they mean to override, in the versions installed.

A method of a parent that takes the name of one of ours would be replaced without a word, and an override of one that the
parent no longer has would never be called: an upgrade that does either fails here.
"""

import ast
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path

import pytest

from trl_ext.methods import METHODS
from trl_ext.trainers import (
    GRPOTrainer,
    OnlinePreferenceTrainer,
    PairedPreferenceTrainer,
    PPOTrainer,
    RLOOTrainer,
    UnpairedPreferenceTrainer,
)
from trl_ext.trainers.preference import parts
from trl_ext.trainers.preference.trainer import PreferenceTrainer
from trl_ext.trainers.sft_and_reward import RewardModelTrainer, SupervisedTrainer

EVERY = {
    "__init__": "trainers/preference/test_parity_with_trl_dpo.py",
    "_tag_names": "report/test_card.py",
    "create_model_card": "report/test_card.py",
    # `trl_ext.trainers.common.nonfinite`
    "train": "trainers/common/test_nonfinite.py",
    "training_step": "trainers/common/test_nonfinite.py",
    "_get_grad_norm": "trainers/common/test_nonfinite.py",
    "log": "trainers/common/test_nonfinite.py",
    "save_model": "trainers/common/test_nonfinite.py",
    # `trl_ext.trainers.common.staged_checkpoint`
    "_save_checkpoint": "trainers/common/test_staged_checkpoint.py",
    "_evaluate": "trainers/common/test_best_checkpoint.py",
    "_determine_best_metric": "trainers/common/test_best_checkpoint.py",
    "_get_output_dir": "trainers/common/test_staged_checkpoint.py",
    "_push_from_checkpoint": "trainers/common/test_staged_checkpoint.py",
    "push_to_hub": "trainers/common/test_staged_checkpoint.py",
    "_init_training_state": "trainers/preference/test_resume.py",
    "_load_from_checkpoint": "trainers/preference/test_resume.py",
    "_load_optimizer_and_scheduler": "trainers/preference/test_resume.py",
    "_load_rng_state": "trainers/preference/test_resume.py",
    "_load_scaler": "trainers/preference/test_resume.py",
}
WHOLE_MICRO_BATCHES = {
    # `trl_ext.trainers.common.streams`
    "_get_dataloader": "trainers/test_streams.py",
    "evaluation_loop": "trainers/test_streams.py",
    "prediction_step": "trainers/test_streams.py",
}
PREFERENCES = {
    "_name": "report/test_card.py",
    # `trl_ext.trainers.preference.trainer`
    "_prepare_dataset": "inspection/test_against_trl.py",
    "_precompute_ref_logps": "trainers/preference/test_evaluation.py",
    "_save": "trainers/preference/test_references.py",
    "_compute_loss": "trainers/preference/test_images_against_trl.py",
    "_get_dataloader": "trainers/preference/test_parity_with_trl_dpo.py",
    "get_batch_samples": "trainers/preference/test_parity_with_trl_dpo.py",
    "floating_point_ops": "trainers/preference/test_counters.py",
    "_track_num_input_tokens": "trainers/preference/test_counters.py",
    "evaluation_loop": "trainers/preference/test_evaluation.py",
    "prediction_step": "trainers/preference/test_compute_metrics.py",
}
CLASSES_MIXED = {
    "_get_train_sampler": "trainers/preference/test_unpaired.py",
    "_run_epoch": "trainers/preference/test_unpaired.py",
}
ROLLOUTS = {
    "_name": "report/test_card.py",
    # `trl_ext.trainers.rollout.trainer`
    "evaluate": "trainers/ppo/test_metrics.py",
    "_get_train_sampler": "trainers/ppo/test_resume.py",
    "_generate_and_score_completions": "trainers/ppo/test_rollout.py",
    "_generate_single_turn": "trainers/ppo/test_out_of_memory.py",
    "_get_per_token_logps_and_entropies": "trainers/ppo/test_rollout.py",
    "_calculate_rewards": "trainers/rollout/test_reward_functions.py",
    "_save": "trainers/ppo/test_resume.py",
    "_compute_loss": "trainers/ppo/test_metrics.py",
}
TWO_ROLES = {
    "_paper": "report/test_card.py",
    "create_optimizer": "trainers/rollout/test_roles.py",
    "_clip_grad_norm": "trainers/rollout/test_roles.py",
}
OF_TEMPLATES = {"_prepare_dataset": "build/test_template_variables.py"}
OVERRIDES = {
    SupervisedTrainer: EVERY | WHOLE_MICRO_BATCHES | OF_TEMPLATES,
    RewardModelTrainer: EVERY | WHOLE_MICRO_BATCHES | OF_TEMPLATES,
    PairedPreferenceTrainer: EVERY | PREFERENCES,
    UnpairedPreferenceTrainer: EVERY | PREFERENCES | CLASSES_MIXED,
    OnlinePreferenceTrainer: EVERY | ROLLOUTS,
    PPOTrainer: EVERY | ROLLOUTS | TWO_ROLES,
    RLOOTrainer: EVERY | ROLLOUTS | TWO_ROLES,
    GRPOTrainer: EVERY | ROLLOUTS | TWO_ROLES,
}
"""Names that stand both in a class of ours and in a parent's, by trainer, each with the test of what it relies on."""

SHARED_STATE = {"_tr_loss"}  # the running sum of losses, from which a step left out is taken back
# Tokens of a micro-batch that is run again count once.
SHARED_STATE_OF_WHOLE_MICRO_BATCHES = SHARED_STATE | {"_total_train_tokens"}
# The columns of the data that are not removed: those that our losses read are added.
SHARED_STATE_OF_PREFERENCES = SHARED_STATE | {"precompute_ref_logps", "_signature_columns"}
SHARED_STATE_OF_ROLLOUTS = SHARED_STATE | {"_buffered_inputs", "_step", "beta"}
SETS = {
    # The template that marks the assistant's turns gets the defaults of the tokenizer's template.
    SupervisedTrainer: SHARED_STATE_OF_WHOLE_MICRO_BATCHES | {"chat_template"},
    RewardModelTrainer: SHARED_STATE_OF_WHOLE_MICRO_BATCHES,
    # Those of the loss show the one that is trained, where TRL's constructor was told another.
    PairedPreferenceTrainer: SHARED_STATE_OF_PREFERENCES | {"loss_types", "loss_weights"},
    # The last switches TRL's own mismatched pairs on while it precomputes their reference values.
    UnpairedPreferenceTrainer: SHARED_STATE_OF_PREFERENCES
    | {"loss_type", "desirable_weight", "undesirable_weight", "calculate_KL"},
    OnlinePreferenceTrainer: SHARED_STATE_OF_ROLLOUTS,
    PPOTrainer: SHARED_STATE_OF_ROLLOUTS,
    RLOOTrainer: SHARED_STATE_OF_ROLLOUTS,
    GRPOTrainer: SHARED_STATE_OF_ROLLOUTS,
}
"""Attributes that both we and a parent set on the instance, or one sets and the other defines, by trainer."""


def test_every_trainer_is_listed():
    assert {method.classes()[0] for method in METHODS.values()} == {*OVERRIDES} == {*SETS}


def is_ours(cls):
    return cls.__module__.startswith("trl_ext.")


def names(cls):
    """What a class defines in its body, Python's own names apart."""
    return {name for name in vars(cls) if name == "__init__" or not name.startswith("__")}


def set_on_self(cls):
    """Attributes that methods of a class, or its assembly, set on the instance, read from their source."""
    sources = [cls, *([parts.assemble] if cls is PreferenceTrainer else [])]
    return {
        node.attr
        for source in sources
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(source))))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "trainer")
    }


def split(trainer):
    """Our classes of a trainer and its parents', without `object`."""
    classes = [cls for cls in trainer.__mro__ if cls is not object]
    return [cls for cls in classes if is_ours(cls)], [cls for cls in classes if not is_ours(cls)]


@pytest.mark.parametrize("trainer", OVERRIDES, ids=lambda trainer: trainer.__name__)
def test_a_name_shared_with_a_parent_is_a_deliberate_override(trainer):
    ours, theirs = (set().union(*map(names, classes)) for classes in split(trainer))
    assert ours & theirs == set(OVERRIDES[trainer])


@pytest.mark.parametrize("trainer", OVERRIDES, ids=lambda trainer: trainer.__name__)
def test_an_attribute_shared_with_a_parent_is_meant_to_be(trainer):
    ours, theirs = (
        set().union(*map(names, classes), *map(set_on_self, classes)).difference(OVERRIDES[trainer])
        for classes in split(trainer)
    )
    assert ours & theirs == SETS[trainer]


@pytest.mark.parametrize("trainer", OVERRIDES, ids=lambda trainer: trainer.__name__)
def test_mixins_define_no_name_of_each_other(trainer):
    """But for methods of a parent, which they override in turn, and those a subclass fills in."""
    ours, _ = split(trainer)
    for name in set().union(*map(names, ours)) - set(OVERRIDES[trainer]):
        holders = [cls for cls in ours if name in vars(cls)]
        for first, second in pairwise(holders):
            assert issubclass(first, second), f"{name} of {first.__name__} hides that of {second.__name__}"


@pytest.mark.parametrize(
    "trainer",
    [SupervisedTrainer, RewardModelTrainer, OnlinePreferenceTrainer, PPOTrainer, RLOOTrainer, GRPOTrainer],
    ids=lambda t: t.__name__,
)
def test_a_trainer_is_made_of_few_classes(trainer):
    """Those that override something; all other work is done by objects that a trainer holds."""
    ours, _ = split(trainer)
    assert len(ours) <= 6


@pytest.mark.parametrize("trainer", OVERRIDES, ids=lambda trainer: trainer.__name__)
def test_few_classes_override_a_parent(trainer):
    """Anything else is an object that the trainer holds."""
    ours, _ = split(trainer)
    assert len(ours) <= 6, [cls.__name__ for cls in ours]


def test_every_override_has_its_test():
    named = {file for overrides in OVERRIDES.values() for file in overrides.values()}
    assert [file for file in sorted(named) if not (Path(__file__).parents[1] / file).is_file()] == []
