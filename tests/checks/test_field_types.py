"""Configurations made in Python take anything; a list in place of a word must not reach the tables of words."""

import dataclasses
import typing

import pytest

from trl_ext.methods import METHODS


def takes_a_container(annotation) -> bool:
    return any(
        word in str(annotation)
        for word in ("list", "dict", "tuple", "Sequence", "Iterable", "Mapping", "Config", "Any")
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_list_or_mapping_in_place_of_a_single_value_is_one_sentence(method):
    config_class = METHODS[method].classes()[1]
    annotations = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        hints = annotations[field.name]
        is_list_of_losses = METHODS[method].has_loss and field.name == "loss_type"  # as TRL's DPO takes it
        if takes_a_container(hints) or not field.init or is_list_of_losses:
            continue
        for value, kind in ((["x"], "a list"), ({"x": 1}, "a mapping")):
            with pytest.raises(ValueError) as raised:
                config_class(**{"output_dir": "nowhere", field.name: value})
            assert str(raised.value) == f"`{field.name}` is {kind}: give a single value.", field.name


@pytest.mark.parametrize(
    "key", ["loss_type", "importance_sampling_level", "loss_aggregation", "kl_estimator", "scale_rewards"]
)
def test_a_number_in_place_of_a_word_names_the_words(key):
    with pytest.raises(ValueError, match=f"`{key}` is 3|'?3'?: choose one of"):
        METHODS["grpo"].classes()[1](output_dir="nowhere", **{key: 3})


@pytest.mark.parametrize("value", [3, "ab", 0, [1, 2, 3], {"low": 0}])
def test_a_clip_range_is_two_numbers(value):
    with pytest.raises(ValueError, match=r"`reward_clip_range` is .*: give two numbers, the lower one first"):
        METHODS["ppo"].classes()[1](output_dir="nowhere", reward_clip_range=value)
