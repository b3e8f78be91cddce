"""Rules about online preference training give the same sentences for a recipe and for the trainer."""

import pytest

from tests.recipe.helpers import problem
from tests.trainers.online.helpers import config
from tests.trainers.online.test_recipe import ONLINE
from trl_ext.checks import unread
from trl_ext.recipe import schema


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"torch_compile": True}, "`torch_compile`{} would have no effect: training steps run on the model itself"),
        ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha`{} adds noise to the embeddings in some forward passes"),
        (
            {"label_smoothing_factor": 0.1},
            "`label_smoothing_factor`{} would have no effect: no loss here reads it",
        ),
        (
            {"reward_clip_range": [1.0, -1.0]},
            "`reward_clip_range`{} is [1.0, -1.0]: give two numbers, the lower one first.",
        ),
    ],
)
def test_a_recipe_and_a_configuration_are_refused_alike(tmp_path, settings, sentence):
    (key, value), *_ = settings.items()
    text = f"{key}: {str(value).lower() if isinstance(value, bool) else value}\n"
    assert sentence.format(" (line 6)") in problem(tmp_path, text, ONLINE)
    with pytest.raises(ValueError) as raised:
        config(tmp_path, **settings)
    assert sentence.format("") in str(raised.value)


def test_every_name_in_the_rules_is_a_setting():
    assert {*unread.OF_A_POLICY_GRADIENT} <= schema.training("online").keys()
