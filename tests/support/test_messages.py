"""Names that may be meant."""

import pytest

from trl_ext.support import messages

OPTIMIZERS = ["sgd", "adamw_torch_xla", "adamw_torch", "adafactor", "adamw_torch_fused", "adamw_8bit"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("adamw", ["adamw_8bit", "adamw_torch", "adamw_torch_xla"]),  # those it begins, the shortest first
        ("adamw_tor", ["adamw_torch", "adamw_torch_xla", "adamw_torch_fused"]),
        ("adamw_trch", ["adamw_torch", "adamw_torch_xla", "adamw_torch_fused"]),  # those that are alike
        ("adafcator", ["adafactor"]),
        ("ad", []),  # begins most names, and says too little
        ("lion", []),
    ],
)
def test_nearest_names(given, meant):
    assert messages.nearest(given, OPTIMIZERS) == meant


def test_three_names_are_a_sentence():
    assert messages.one_of("adamw", OPTIMIZERS[:4]) == (
        "did you mean adamw_torch or adamw_torch_xla? Allowed are adafactor, adamw_torch, adamw_torch_xla, sgd."
    )
    assert messages.joined(["a", "b", "c"], "or") == "a, b or c"
