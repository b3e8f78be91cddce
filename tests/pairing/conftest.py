"""A small model in memory that all tests here sample from."""

import pytest

from tests.pairing.command import pairs
from trl_ext import recipe
from trl_ext.pairing.policy import Policy
from trl_ext.support.sampling import sample

TEXT = """\
model_name_or_path: embedded
dataset_name: embedded
use_peft: true
lora_r: 4
lora_target_modules: all-linear
loss: dpo
max_length: 256
per_device_train_batch_size: 8
max_steps: 2
learning_rate: 1e-3
save_strategy: "no"
report_to: none
seed: 0
"""


@pytest.fixture(scope="session")
def small_recipe(tmp_path_factory):
    """A recipe without quantisation on the embedded model."""
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def loaded(small_recipe):
    """The model of that recipe, loaded once."""
    policy = Policy(recipe.load(small_recipe))
    policy.load()
    return policy


@pytest.fixture
def policy(loaded, monkeypatch):
    """The same, and nothing else is ever loaded or freed."""
    monkeypatch.setattr(Policy, "load", lambda self: loaded._model)
    monkeypatch.setattr(Policy, "release", lambda self: None)
    return loaded


@pytest.fixture
def sampled(monkeypatch):
    """The prompts of every batch that is sampled."""
    from trl_ext.pairing import sample as room

    batches: list[list] = []

    def watched(model, tokenizer, rows, **settings):
        batches.append(rows)
        return sample(model, tokenizer, rows, **settings)

    monkeypatch.setattr(room, "sample", watched)
    return batches


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Where `done` is."""
    return tmp_path_factory.mktemp("whole") / "pairs"


@pytest.fixture
def done(small_recipe, policy, whole):
    """The folder of a command that was not interrupted."""
    if not whole.exists():
        assert pairs(small_recipe, whole) == 0
    return whole
