"""The runs a comparison consists of."""

import pytest

from trl_ext.comparison.grid import cells
from trl_ext.support.errors import UserError

DEMO = "recipes/demo.yaml"


def names(*given, **overrides):
    return [cell.name for cell in cells(DEMO, overrides, *given)]


def test_losses_in_their_order_each_with_its_variant():
    found = cells(DEMO, {}, "simpo,dpo,ipo")
    assert [cell.name for cell in found] == ["simpo", "dpo", "ipo"]
    assert [cell.recipe.loss for cell in found] == ["simpo", "dpo", "ipo"]
    assert [cell.recipe.loss_kwargs["beta"] for cell in found] == [2.0, 1.0, 4.0]
    assert [cell.recipe.get("learning_rate") for cell in found] == [3e-4, 5e-4, 5e-4]


def test_every_beta_with_every_seed():
    expected = [f"dpo-beta{beta}-seed{seed}" for beta in ("0.3", "1") for seed in (0, 1)]
    assert names(["dpo"], "0.3,1", [0, 1]) == expected
    (one,) = cells(DEMO, {"max_steps": 3}, "dpo", 0.3, 7)
    assert (one.recipe.loss_kwargs["beta"], one.recipe.get("seed"), one.recipe.get("max_steps")) == (0.3, 7, 3)


def test_betas_of_their_own():
    assert names("dpo,ipo,sft", {"dpo": [0.3, 1], "ipo": 8}) == ["dpo-beta0.3", "dpo-beta1", "ipo-beta8", "sft"]


def test_aliases_and_repetitions_are_one_run():
    assert names("sigmoid,dpo", "1,1.0") == ["dpo-beta1"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("",), "is missing or empty"),
        (("dpo,idpo",), "idpo"),
        (("dpo", "high"), "contains 'high'. Give numbers"),
        (("dpo", None, "0.5"), "contains 0.5. Give whole numbers"),
        (("dpo", True), "contains True. Give numbers"),
        (("dpo", {"kto": 1}), "has betas for kto, but `--losses` has only dpo"),
        (("dpo,sft", 0.3), "sft-beta0.3"),
        (("dpo", -1), "dpo-beta-1"),
    ],
)
def test_what_cannot_be_compared_is_said(given, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        cells(DEMO, {}, *given)


def test_what_the_grid_varies_cannot_be_set_for_all():
    with pytest.raises(UserError, match="`--betas`"):
        cells(DEMO, {"beta": 1}, "dpo,ipo")
