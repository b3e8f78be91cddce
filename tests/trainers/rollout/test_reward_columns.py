"""Parameters of reward functions against the columns of the data: before weights, and from `validate`."""

import functools
import inspect

import pytest
from datasets import Dataset

from tests.recipe.helpers import PPO, write
from tests.trainers.helpers import lora
from tests.trainers.ppo.helpers import config, count_the
from trl_ext import PPOTrainer, recipe
from trl_ext.build.trainer import build_trainer
from trl_ext.checks import reward_names
from trl_ext.support.errors import UserError
from trl_ext.trainers.rollout import reward_columns

DATA = Dataset.from_list([{"prompt": "a", "solution": "b"}])


def reads(completions, answer, *, scale=1.0, **kwargs): ...


def reads_prompt(prompt, completions, **kwargs): ...


def takes_no_more(prompts, completions, completion_ids, trainer_state, log_extra, log_metric): ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            reads,
            "The reward function reads reads `answer`, and the training data has no such column: besides the prompt it has "
            "solution. Name the column with `dataset_columns: {answer: <its column>}`, or give the parameter a default.",
        ),
        (reads_prompt, "reads `prompt`, and the training data has no such column: besides the prompt it has solution. Did you mean `prompts`?"),
        (takes_no_more, "The reward function takes_no_more does not accept solution."),
        (functools.partial(reads, answer=[1]), None),
        (count_the, None),
        ("a/model", None),
    ],
)  # fmt: skip
def test_a_function_is_compared_with_the_columns(function, words, tmp_path):
    found = reward_columns.problem([count_the, function], config(tmp_path), DATA)
    assert found is None if words is None else words in found


def test_columns_that_are_removed_and_those_of_an_evaluation_count(tmp_path):
    args, both = config(tmp_path), DATA.add_column("answer", ["c"])
    assert reward_columns.problem([reads], args, both) is None
    assert "the data to evaluate on" in reward_columns.problem([reads], args, both, {"first": both, "second": DATA})
    args.remove_unused_columns = True
    assert "it has nothing but the prompt" in reward_columns.problem([reads], args, both)


def test_a_trainer_refuses_before_it_loads_weights(tmp_path):
    with pytest.raises(ValueError, match="The reward function reads reads `answer`"):
        PPOTrainer("no/such-model", reads, config(tmp_path), DATA.select([0] * 8), peft_config=lora())


FILE = "def is_right(completions, answer, **kwargs):\n    return [1.0] * len(completions)\n"


def prepared(folder, row, name="is_right"):
    (folder / "rewards.py").write_text(FILE)
    (folder / "data.jsonl").write_text(f"{row}\n" * 40)
    own = f"dataset_name: {folder / 'data.jsonl'}\nreward_funcs: ['{folder / 'rewards.py'}:{name}']\n"
    lines = [line for line in PPO.splitlines() if not line.startswith(("dataset_name", "reward_funcs"))]
    return write(folder, own, "\n".join(lines) + "\n")


def test_validate_knows_the_columns_of_a_local_file(tmp_path):
    path = prepared(tmp_path, '{"prompt": "a", "answers": "b"}')
    with pytest.raises(UserError) as raised:
        recipe.load(path)
    (sentence,) = raised.value.problems
    assert "rewards.py:is_right, which reads `answer`, and" in sentence and "Did you mean `answers`?" in sentence
    recipe.load(prepared(tmp_path, '{"prompt": "a", "answer": "b"}'))


def test_columns_that_reading_drops_are_found_before_weights_are_loaded(tmp_path, monkeypatch):
    """Of preference data only the prompts are used."""
    path = prepared(tmp_path, '{"prompt": "a", "chosen": "b", "rejected": "c", "answer": "d"}')
    monkeypatch.setattr("trl_ext.build.trainer.load_policy", lambda *given: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match="reads `answer`, and the training data has no such column"):
        build_trainer(recipe.load(path), tmp_path / "run")


def test_what_trls_functions_read_is_known_without_importing_them():
    from trl import rewards

    for name, columns in reward_names.COLUMNS_OF_KNOWN.items():
        parameters = inspect.signature(getattr(rewards, name)).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
        assert needed - reward_names.PASSED == {*columns}
