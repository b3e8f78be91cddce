"""The recipe judged with the computer, and its plan in a line."""

from types import SimpleNamespace

import pytest

from tests.doctor.helpers import GIB, only
from trl_ext.doctor import recipe


@pytest.mark.parametrize(
    ("planned", "status", "found", "remedy"),
    [
        ({"fits": True}, "pass", "peak memory 20.0 GiB; this card has 24.0 GiB", ""),
        ({"is_tight": True}, "warn", "which is enough only if nothing else uses it", "use no display on this card"),
        ({"flags": ("--lora_r", "16")}, "fail", "of which 22.5 GiB can be used", "Add --lora_r 16"),
        ({"flags_suffice": False}, "fail", "of which 22.5 GiB can be used", "Choose a smaller model."),
    ],
)
def test_the_verdict_on_a_plan(planned, status, found, remedy):
    whole = {"fits": False, "is_tight": False, "flags": (), "flags_suffice": True} | planned
    said = only(recipe.verdict(SimpleNamespace(peak=20 * GIB, vram=24.0, budget=22.5, **whole), "this card"))
    assert said[0] == status and found in said[1] and remedy in said[2]


def test_a_recipe_is_judged_with_the_computer(said_of):
    found = said_of()
    assert found["recipe"].found == "r.yaml is valid: dpo on embedded"
    assert found["plan"].status == "pass" and "this machine's main memory" in found["plan"].found
    assert found["model"].found == "embedded comes with trl-ext"
    assert (
        found["tokenizer"].found
        == "eos <|end|>, pad <pad>, chat template ends with <|end|>, 898 tokens in 960 embeddings"
    )


def test_a_recipe_that_is_not_in_order_is_told_with_the_rest(said_of):
    found = said_of(more="beta: -1\n")
    assert found["recipe"].status == "fail" and "`beta` (line 4) is -1" in found["recipe"].found
    assert found["recipe"].remedy == "Fix it, then check the recipe with `trl-ext validate r.yaml`."
    assert "RAM" in found and "plan" not in found
