"""Values as people write them, read in the type of the field they are for."""

import pytest

from trl_ext.recipe.layers.convert import convert
from trl_ext.recipe.schema import Field


def field(annotation: str, choices: tuple[str, ...] | None = None) -> Field:
    return Field("key", annotation, None, choices, "", "Config")


@pytest.mark.parametrize(
    ("annotation", "given", "converted"),
    [
        ("int", 3, 3),
        ("int", 1e3, 1000),
        ("int", "8", 8),
        ("float", 5, 5),
        ("float", "5e-6", 5e-6),
        ("bool", True, True),
        ("bool", "false", False),
        ("str", "x", "x"),
        ("str | None", None, None),
        ("int | None", "none", None),
        ("list[str]", ["a"], ["a"]),
        ("list[str] | None", "all-linear", ["all-linear"]),
        ("None | str | list[str]", "wandb", "wandb"),
        ("dict | str | None", {"a": 1}, {"a": 1}),
        ("int | str", "auto", "auto"),
        ("int | str", 4096, 4096),
        ("float | str | None", 1.5, 1.5),
        ("Optional[int]", None, None),
        ("Union[int, str]", "x", "x"),
        ("Any", [1], [1]),
    ],
)
def test_values_that_fit(annotation, given, converted):
    result = convert(field(annotation), given)
    assert result == converted and type(result) is type(converted)


@pytest.mark.parametrize(
    ("annotation", "given", "sentence"),
    [
        ("float", "fast", "is 'fast': give a number."),
        ("int", 0.5, "is 0.5: give a whole number."),
        ("int", True, "is true: give a whole number."),
        ("bool", 1, "is 1: give true or false."),
        ("float", [1], "is a list: give a number."),
        ("float", None, "is empty: give a number, or remove the line."),
        ("int | None", {}, "is a mapping: give a whole number or null."),
        ("str", 7, "is 7: give text (put it in quotes to keep it as text)."),
        ("dict[str, str] | None", "x", "is 'x': give a mapping or null."),
    ],
)
def test_values_that_do_not(annotation, given, sentence):
    with pytest.raises(ValueError) as caught:
        convert(field(annotation), given)
    assert str(caught.value) == sentence


def test_choices():
    strategy = field("IntervalStrategy | str", ("no", "steps", "epoch"))
    assert convert(strategy, "steps") == "steps"
    assert convert(strategy, False) == "no"  # what YAML makes of an unquoted no
    with pytest.raises(ValueError, match="is 'step': did you mean steps"):
        convert(strategy, "step")
    with pytest.raises(ValueError, match="allowed are epoch, no, steps"):
        convert(strategy, "weekly")
