"""The model of PPO's tests, whose completions end at different lengths."""

from tests.trainers.ppo.conftest import model  # noqa: F401
