"""Recipes for the planner, and no coefficients left over from elsewhere."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recipe import stand_in

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(autouse=True)
def no_calibration(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shipped() -> Callable[..., Any]:
    """A recipe of this repository, with settings changed."""

    def load(name: str, **changes: Any) -> Any:
        return stand_in.load(RECIPES / f"{name}.yaml", changes)

    return load
