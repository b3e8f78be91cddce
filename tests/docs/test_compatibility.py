"""The page about TRL's settings: every field of six configurations stands in one column, and every verdict is true."""

import dataclasses
import re
from functools import lru_cache
from pathlib import Path

import pytest
import trl

from docs import probes
from docs.compatibility import COUNTERPARTS, EXTENDED, NO_EFFECT, REFUSED, SAME, page
from tests.checks.test_rules import NEWER
from trl_ext.methods import METHODS, imported

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
CONFIGS = pytest.mark.parametrize("config", COUNTERPARTS)


def fields_of(config: str) -> set[str]:
    return {field.name for field in dataclasses.fields(getattr(trl, config))}


@lru_cache
def columns(config: str) -> dict[str, list[str]]:
    """The fields in each column of a section of the page, as a reader finds them."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## `{config}`\n")[2].partition("\n## ")[0]
    found = {SAME: re.findall(r"`(\w+)`", section.partition("**Same**")[2].partition("\n")[0])}
    for table in re.split(r"\n\n", section):
        if title := re.match(r"\| (\D+) \(\d+\) \|", table):
            found[title[1]] = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    return found


@CONFIGS
def test_every_field_of_trl_is_in_exactly_one_column(config):
    fields = fields_of(config)
    assert set(columns(config)) <= {SAME, EXTENDED, REFUSED, NO_EFFECT}
    assert sorted(name for names in columns(config).values() for name in names) == sorted({*fields, *NEWER})


@CONFIGS
def test_what_is_called_refused_is_refused(config):
    for key in columns(config)[REFUSED]:
        assert any(outcome.refusals for outcome in probes.outcomes(COUNTERPARTS[config], key)), key


@CONFIGS
def test_what_is_called_without_effect_is_noted(config):
    for key in columns(config)[NO_EFFECT]:
        notes = [note for outcome in probes.outcomes(COUNTERPARTS[config], key) for note in outcome.notes]
        assert any(f"`{key}`" in note and "no effect" in note for note in notes), key


@CONFIGS
def test_what_is_called_the_same_or_extended_is_accepted_without_a_word_against_it(config):
    method = COUNTERPARTS[config]
    fields = {field.name for field in dataclasses.fields(imported(METHODS[method].config))}
    for key in (*columns(config)[SAME], *columns(config).get(EXTENDED, ())):
        if key in NEWER - fields:
            continue
        assert key in fields
        for outcome in probes.outcomes(method, key):
            assert not outcome.refusals, (key, outcome)
            assert not any(f"`{key}`" in note and "no effect" in note for note in outcome.notes), (key, outcome)


def test_a_value_to_try_differs_from_the_default():
    for config, method in COUNTERPARTS.items():
        for field in dataclasses.fields(getattr(trl, config)):
            default = field.default_factory() if callable(field.default_factory) else field.default
            assert default not in probes.values(method, field.name), field.name


@pytest.mark.skipif(bool(NEWER - fields_of("DPOConfig")), reason="the page has settings that this transformers lacks")
def test_the_page_is_that_of_the_rules():
    assert page() in PAGE.read_text(encoding="utf-8")
