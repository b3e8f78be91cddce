"""The model of online training's tests, whose completions end at different lengths."""

from tests.trainers.rollout.conftest import model  # noqa: F401
