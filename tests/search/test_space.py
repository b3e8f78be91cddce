"""Ranges by default and from the recipe, and the settings of trials."""

import math

import optuna
import pytest

from tests.recipe.helpers import BASE, write
from trl_ext import losses, recipe
from trl_ext.checks.search_space import Interval, Values
from trl_ext.search import space
from trl_ext.search.study import quiet
from trl_ext.support.errors import UserError

TRAINED = BASE + "use_peft: true\n"


def made(path, names=None, **flags):
    return space.make(str(path), flags, recipe.load(path, flags), names)


def of(folder, text, names=None, **flags):
    return made(write(folder, text, TRAINED), names, **flags)


def test_the_demo_is_searched_over_two_decades_per_loss():
    found = made("recipes/demo.yaml")
    assert found.losses == ["dpo", "ipo", "simpo", "kto"]
    beta = {loss: ranges["beta"] for loss, ranges in found.ranges.items()}
    assert beta == {
        "dpo": Interval(0.1, 10.0, True),
        "ipo": Interval(0.4, 40.0, True),
        "simpo": Interval(0.2, 20.0, True),
        "kto": Interval(0.1, 10.0, True),
    }
    assert {each["learning_rate"] for each in found.ranges.values()} == {Interval(3e-5, 5e-3, True)}
    assert found.ranges["kto"]["max_steps"] == Interval(20, 160, True)
    assert found.name("ipo", "beta") == "ipo.beta" and found.name("ipo", "learning_rate") == "learning_rate"


@pytest.mark.parametrize("loss", losses.available())
def test_every_loss_has_ranges_that_its_recipe_accepts(loss, tmp_path):
    """Both ends of every default interval are settings that can be trained."""
    gold = "gold" in losses.describe(loss).columns
    path = write(tmp_path, f"loss: {loss}\nlearning_rate: 1e-4\n", TRAINED)
    if gold:
        pytest.skip("needs data with a third completion")
    found = made(path, [loss])
    for key, each in found.ranges[loss].items():
        assert isinstance(each, (Interval, Values)) and each.ends
        for value in each.ends:
            assert recipe.load(path, {key: value}).values[key] == value
    assert ("beta" in found.ranges[loss]) == bool(losses.describe(loss).hyperparameters.get("beta"))


def test_a_recipe_without_a_rate_has_the_usual_ones(tmp_path):
    path = write(
        tmp_path, "loss: dpo\n", TRAINED.replace("model_name_or_path: embedded", "model_name_or_path: org/model")
    )
    (rates,) = (each["learning_rate"] for each in made(path, ["dpo"]).ranges.values())
    middle = math.sqrt(rates.low * rates.high)
    assert 5e-6 < middle < 5e-5 and rates.high / rates.low == pytest.approx(100, rel=0.02)


def test_flags_fix_settings(tmp_path):
    assert "learning_rate" not in of(tmp_path, "loss: dpo\n", learning_rate=1e-3).ranges["dpo"]
    assert of(tmp_path, "loss: dpo\n", loss="ipo").ranges.keys() == {""}
    with pytest.raises(UserError, match=r"`--loss` sets one loss, and `--losses` names those to try"):
        of(tmp_path, "loss: dpo\n", ["dpo"], loss="ipo")


def test_the_space_of_a_recipe_replaces_the_default(tmp_path):
    found = of(
        tmp_path, "search: {space: {learning_rate: {low: 1e-4, high: 2e-4}, lora_r: 8, num_train_epochs: auto}}\n"
    )
    assert found.ranges == {
        "": {
            "learning_rate": Interval(1e-4, 2e-4, False),
            "lora_r": Values((8,)),
            "num_train_epochs": Values((1.0, 2.0, 3.0)),
        }
    }


def test_ranges_for_single_losses(tmp_path):
    found = of(tmp_path, "search: {space: {loss: [dpo, simpo], beta: {dpo: [1, 2]}, gamma_beta_ratio: [0.1, 0.5]}}\n")
    assert found.ranges == {"dpo": {"beta": Values((1, 2))}, "simpo": {"gamma_beta_ratio": Values((0.1, 0.5))}}


def test_a_mix_keeps_its_losses(tmp_path):
    assert of(tmp_path, "loss: {dpo: 1, sft: 0.1}\n").losses == []


def test_suggestions_are_settings_within_their_ranges():
    found = made("recipes/demo.yaml")
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
        keys = [found.suggest(study.ask()) for _ in range(60)]
    assert {each["loss"] for each in keys} == set(found.losses)
    for each in keys:
        ranges = found.ranges[each["loss"]]
        assert each.keys() == {"loss", *ranges}
        for key, value in each.items():
            if key != "loss" and isinstance(ranges[key], Interval):
                assert ranges[key].low <= value <= ranges[key].high
                assert isinstance(value, int) or value == float(f"{value:.3g}")
        recipe.load("recipes/demo.yaml", each)
    rates = [math.log10(each["learning_rate"]) for each in keys]
    assert min(rates) < -4 and max(rates) > -3  # on a logarithmic scale


def test_the_recipe_itself_as_a_trial():
    found, demo = made("recipes/demo.yaml"), recipe.load("recipes/demo.yaml")
    own = found.parameters(demo)
    assert own == {"loss": "dpo", "dpo.beta": 1.0, "learning_rate": 5e-4, "lora_r": 16, "max_steps": 80}
    with quiet():
        study = optuna.create_study()
        study.enqueue_trial(own)
        assert found.suggest(study.ask()) == {
            "loss": "dpo",
            "beta": 1.0,
            "learning_rate": 5e-4,
            "lora_r": 16,
            "max_steps": 80,
        }
    assert found.parameters(recipe.load("recipes/demo.yaml", {"learning_rate": 1e-7})) is None
    assert made("recipes/demo.yaml", ["ipo"]).parameters(demo) is None


@pytest.mark.parametrize(
    "text, size",
    [
        ("space: {lora_r: [8, 16], warmup_steps: 5}", 2),
        ("space: {loss: [dpo, simpo], lora_r: [8, 16], gamma_beta_ratio: [0.1, 0.2, 0.3]}", 2 + 2 * 3),
        ("space: {lora_r: [8, 16], beta: {low: 0.1, high: 1}}", None),
    ],
)
def test_the_number_of_combinations(text, size, tmp_path):
    assert of(tmp_path, f"loss: dpo\nsearch: {{{text}}}\n").size == size


@pytest.mark.parametrize("text", ["{loss: [simpo]}", "{beta: 0.3}", "{beta: [0.3, 0.3], lora_r: 8}"])
def test_a_space_in_which_nothing_varies_is_refused(text, tmp_path):
    with pytest.raises(UserError, match="Nothing is left to vary: every setting has one value"):
        of(tmp_path, f"loss: dpo\nsearch: {{space: {text}}}\n")
