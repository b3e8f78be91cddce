"""`frac_reward_zero_std` against TRL's GRPO and RLOO trainers on the same completions, whatever it is computed from there."""

import pytest
import trl

from tests.trainers.parity import both, count_the
from tests.trainers.ppo.helpers import PROMPTS
from trl_ext import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

GRPO = (trl.GRPOTrainer, trl.GRPOConfig), (GRPOTrainer, GRPOConfig)
RLOO = (trl.RLOOTrainer, trl.RLOOConfig), (RLOOTrainer, RLOOConfig)


def of_prompt(prompts, **kwargs):
    """Equal within a prompt, and different between prompts."""
    return [float(len(prompt)) for prompt in prompts]


def equal_for_some_prompts(prompts, completions, **kwargs):
    """Different within every second prompt."""
    differs = [PROMPTS.index(prompt) % 2 for prompt in prompts]
    return [count if each else 0.5 for each, count in zip(differs, count_the(completions), strict=True)]


def rest(completions, **kwargs):
    """The sum of this reward and of `count_the` is 3 for each completion."""
    return [3.0 - count for count in count_the(completions)]


def for_first(prompts, **kwargs):
    """A reward for only one completion of the first prompt and for none of the others."""
    return [1.0 if i == 0 or PROMPTS.index(prompt) % 2 else None for i, prompt in enumerate(prompts)]


def constant(completions, **kwargs):
    return [0.5] * len(completions)


SEVERAL = {"multi_objective_aggregation": "normalize_then_sum"}
CASES = {
    "equal within prompts": (GRPO, {}, of_prompt),
    "equal within some prompts": (GRPO, {}, equal_for_some_prompts),
    "equal within some, unscaled": (GRPO, {"scale_rewards": "none"}, equal_for_some_prompts),
    "equal within prompts, over the batch": (GRPO, {"scale_rewards": "batch"}, of_prompt),
    "equal everywhere, over the batch": (GRPO, {"scale_rewards": "batch"}, constant),
    "single scores": (GRPO, {}, for_first),
    "single scores, over the batch": (GRPO, {"scale_rewards": "batch"}, for_first),
    "equal sums of several rewards": (GRPO, {}, [count_the, rest]),
    "equal sums, each normalised": (GRPO, SEVERAL, [count_the, rest]),
    "some equal, each normalised": (GRPO, SEVERAL, [equal_for_some_prompts, of_prompt]),
    "all equal, each normalised": (GRPO, SEVERAL, [of_prompt, constant]),
    "a KL in the loss": (GRPO, {"beta": 0.3}, of_prompt),
    "no KL": (RLOO, {"beta": 0.0}, equal_for_some_prompts),
    "a KL in the reward": (RLOO, {"beta": 0.3}, of_prompt),
    "single scores in RLOO": (RLOO, {"beta": 0.0}, for_first),
    "clipped to one value": (RLOO, {"beta": 0.0, "reward_clip_range": [-2.0, -1.0]}, count_the),
    "truncated": (RLOO, {"beta": 0.0, "mask_truncated_completions": True}, equal_for_some_prompts),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_trls(case, tiny_model, tmp_path):
    (theirs, ours), settings, rewards = CASES[case]
    trl, mine = both(theirs, ours, tiny_model, tmp_path, settings, rewards)
    found, expected = (
        [log["frac_reward_zero_std"] for log in each.recorder.logs if "frac_reward_zero_std" in log]
        for each in (mine, trl)
    )
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("generations", [1, 2])
def test_in_an_evaluation(scale, generations, tiny_model, tmp_path):
    """Also with one completion per prompt, which has no deviation."""
    settings = {"num_generations_eval": generations, "per_device_eval_batch_size": 4, "scale_rewards": scale}
    trl, mine = both(*GRPO, tiny_model, tmp_path, settings, equal_for_some_prompts)
    found, expected = (each.evaluate(each.train_dataset)["eval_frac_reward_zero_std"] for each in (mine, trl))
    assert found == pytest.approx(expected)
