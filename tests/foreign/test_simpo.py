"""Files of the SimPO authors."""

import pytest

from trl_ext.drafting.conversion import convert

FILE = {"model_name_or_path": "org/model", "dataset_mixer": {"org/pairs": 1.0}, "gamma_beta_ratio": 0.8}


@pytest.mark.parametrize(
    ("extra", "loss", "beta"),
    [
        ({"beta": 2.5}, "simpo", 2.5),
        ({}, "simpo", 2.0),  # the authors' default, not that of another loss
        ({"sft_weight": 0.1}, {"simpo": 1, "sft": 0.1}, 2.0),
        ({"sft_weight": 0.0, "loss_type": "sigmoid"}, "simpo", 2.0),
    ],
)
def test_the_loss_is_simpo(extra, loss, beta):
    made = convert(FILE | extra)
    every = made.settings | made.defaults
    assert (every["loss"].value, every["gamma_beta_ratio"].value, every["beta"].value) == (loss, 0.8, beta)
    assert "loss_type" not in every and not any(left.matters for left in made.left)


def test_defaults_are_written_out():
    made = convert({"dataset_mixer": {"org/pairs": 1.0}}, trainer="simpo")
    assert {key: line.value for key, line in made.defaults.items()} == {"beta": 2.0, "gamma_beta_ratio": 0.25}
    assert next(iter(made.settings.items()))[0] == "loss" and made.settings["loss"].value == "simpo"


def test_another_shape_of_the_loss_is_told():
    made = convert(FILE | {"loss_type": "hinge"})
    assert made.settings["loss"].value == "simpo" and "not that of `loss_type: hinge`" in made.settings["loss"].why
