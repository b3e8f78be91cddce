"""The loss named is the loss run, and a hyperparameter it does not read is an error."""

import dataclasses

import pytest

from trl_ext import losses
from trl_ext.trainers import PairedPreferenceConfig, UnpairedPreferenceConfig

CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


def paired(**settings):
    return PairedPreferenceConfig(output_dir="unused", **CPU, **settings)


def unpaired(**settings):
    return UnpairedPreferenceConfig(output_dir="unused", **CPU, **settings)


def test_without_a_word_it_is_dpo_and_kto():
    assert paired().loss == "dpo" and paired().beta == 0.1
    assert unpaired().loss == "kto" and unpaired().desirable_weight == 1.0


def test_each_loss_brings_its_own_defaults_not_trls():
    # TRL's DPOConfig and CPOConfig would both say 0.1
    assert paired(loss="simpo").beta == losses.get("simpo").hyperparameters["beta"] == 2.0
    assert paired(loss="exo").label_smoothing == 1e-3
    assert paired(loss="sft").beta is None


@pytest.mark.parametrize(
    ("spelling", "loss"),
    [
        ({"loss_type": "ipo"}, "ipo"),
        ({"loss_type": ["sigmoid"]}, "dpo"),
        ({"loss_type": ["sigmoid_norm"], "beta": 5.0}, "dpo_norm"),
        ({"loss_type": ["bco_pair", "sft"], "loss_weights": [0.2, 1.0]}, {"bco_pair": 0.2, "sft": 1.0}),
        ({"loss_type": ["sigmoid", "sft"]}, {"dpo": 1.0, "sft": 1.0}),
    ],
)
def test_trls_spelling_is_understood(spelling, loss):
    assert paired(**spelling).loss == loss


def test_hyperparameters_come_from_fields_or_loss_kwargs():
    assert paired(loss="ipo", beta=0.3).loss_kwargs["beta"] == 0.3
    assert paired(loss="ipo", loss_kwargs={"beta": 0.3}).beta == 0.3
    mix = paired(loss={"dpo": 1.0, "simpo": 0.5}, loss_kwargs={"simpo": {"beta": 2.5}}, beta=0.2)
    assert mix.loss_kwargs["dpo"]["beta"] == 0.2 and mix.loss_kwargs["simpo"]["beta"] == 2.5


@pytest.mark.parametrize(
    "config",
    [paired(loss="ipo", beta=0.3), paired(loss="sft"), unpaired(loss="kto")],
    ids=["ipo", "sft", "kto"],
)
def test_a_config_survives_being_copied(config):
    again = dataclasses.replace(config)
    assert (again.loss, again.loss_kwargs) == (config.loss, config.loss_kwargs)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "dpoo"}, "dpo"),
        ({"loss": "simpo", "label_smoothing": 0.7}, "label_smoothing"),
        ({"loss": "sft", "beta": 0.2}, "sft does not read 'beta'"),
        ({"loss": "dpo", "beta": -1.0}, "beta must be"),
        ({"loss": "dpo", "beta": 0.1, "loss_kwargs": {"beta": 0.2}}, "Set it in one place"),
        ({"loss": "dpo", "loss_type": ["ipo"]}, "Set only one of them"),
        ({"loss": "kto"}, "UnpairedPreferenceConfig"),
        ({"loss": "aot", "use_weighting": True}, "use_weighting"),
        ({"row_tokens": 0}, "row_tokens"),
        ({"row_tokens": "many"}, "row_tokens"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        paired(**settings)


def test_paired_losses_are_refused_for_unpaired_data():
    with pytest.raises(ValueError, match="PairedPreferenceConfig"):
        unpaired(loss="dpo")
