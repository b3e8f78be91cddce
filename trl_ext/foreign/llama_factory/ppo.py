"""Read the keys of `stage: ppo`: rollouts, KL control, rewards and sampling."""

from typing import Any

from trl_ext.foreign.dialect import Reader, Values
from trl_ext.foreign.llama_factory.file_values import OFF, UNSET, lost, number, only_in, renamed_in, stage
from trl_ext.foreign.meaning import Meaning

KL_COEF = 0.2
"""The first KL coefficient of LLaMA-Factory's PPO, which no key changes."""

NOT_SAMPLED = Meaning(reason="only stage ppo samples completions in training, so it has no effect")


def _updates(values: Values) -> int:
    """Optimizer steps per rollout. LLaMA-Factory counts rollouts as steps."""
    epochs, buffers = number(values.get("ppo_epochs")), number(values.get("ppo_buffer_size"))
    return int(4 if epochs is None else epochs) * int(buffers or 1)


def _buffer(value: Any, values: Values) -> Meaning:
    buffers = int(number(value) or 1)
    if buffers == 1:
        return Meaning(reason="a rollout serves one optimizer step per epoch, as here")
    accumulated = int(number(values.get("gradient_accumulation_steps")) or 1)
    return Meaning(
        {"steps_per_generation": accumulated * buffers},
        f"a rollout has {buffers} × `gradient_accumulation_steps` micro-batches",
    )


def _target(value: Any, values: Values) -> Meaning | tuple[Meaning, ...]:
    if value is None:
        return UNSET
    target = Meaning({"kl_controller": "adaptive", "kl_target": value})
    if values.get("stage") != "ppo":  # a key of LLaMA-Factory in a recipe
        return target
    return (
        target,
        Meaning({"kl_coef": KL_COEF}, "LLaMA-Factory starts at this coefficient and has no key for it"),
    )


def _reward_model(value: Any, values: Values) -> Meaning:
    if not value:
        return UNSET
    head = (
        "a reward model that LLaMA-Factory trained has a value head, which is not a sequence classifier. Convert its file of stage rm and "
        "train it here"
    )
    kind = str(values.get("reward_model_type") or "lora")
    if kind == "api":
        return Meaning(
            reason="rewards come from Python functions, classifiers and adapters",
            changes="the reward server is not asked. Write a function that asks it, and name it in `reward_funcs: [rewards.py:ask]`",
        )
    if kind == "full":
        return Meaning({"reward_funcs": [value]}, head)
    return Meaning({"reward_adapter": value}, head)


def _reward_model_type(value: Any, values: Values) -> Meaning:
    return Meaning(reason="`reward_adapter` is an adapter on the policy's base, and `reward_funcs` names whole models")


def _temperature(value: Any, values: Values) -> Meaning:
    return Meaning(
        {"temperature": value},
        changes="log-probabilities are those at this temperature; LLaMA-Factory samples at it and scores at 1",
    )


def _sampled(value: Any, values: Values) -> Meaning:
    if stage(values) != "ppo":
        return NOT_SAMPLED
    if value in (None, True):
        return Meaning(reason="completions are always sampled")
    return Meaning(reason="PPO learns from samples", changes="completions are sampled, not decoded greedily")


def _beams(value: Any, values: Values) -> Meaning:
    if stage(values) != "ppo":
        return NOT_SAMPLED
    if value in (None, 1):
        return OFF
    return Meaning(reason="PPO learns from samples", changes="there is no beam search")


def _in_rollouts(setting: str) -> Reader:
    """A count of steps. A step of LLaMA-Factory's PPO is a rollout with all its updates, and here it is one update."""

    def read(value: Any, values: Values) -> Meaning | tuple[()]:
        steps, updates = number(value), _updates(values)
        if stage(values) != "ppo" or steps is None or steps < 1 or updates == 1:
            return ()
        return Meaning(
            {setting: int(steps) * updates},
            f"a step here is one update, and a rollout of this file has {updates} updates",
        )

    return read


def _sampling(setting: str) -> Reader:
    return lambda value, values: Meaning({setting: value}) if stage(values) == "ppo" else NOT_SAMPLED


MEANS: dict[str, str | Meaning | Reader] = {
    "ppo_epochs": renamed_in("ppo", "num_iterations"),
    "ppo_buffer_size": only_in("ppo", _buffer),
    "ppo_target": only_in("ppo", _target),
    "ppo_score_norm": only_in(
        "ppo",
        lost("rewards are not divided by running statistics; `reward_clip_range` limits them", "rewards keep their scale"),
    ),
    "ppo_whiten_rewards": only_in(
        "ppo", lost("`normalize_advantages` normalises advantages instead of rewards", "rewards are not whitened")
    ),
    "reward_model": only_in("ppo", _reward_model),
    "reward_model_type": only_in("ppo", _reward_model_type),
    "reward_model_adapters": only_in(
        "ppo",
        lost("a reward model is one folder", "these adapters are not added to it. Merge them into it first (`trl-ext merge`)"),
    ),
    "reward_model_quantization_bit": only_in("ppo", lost("a classifier is loaded in 16 bits", "")),
    "max_steps": _in_rollouts("max_steps"),
    "save_steps": _in_rollouts("save_steps"),
    "logging_steps": _in_rollouts("logging_steps"),
    "do_sample": _sampled,
    "temperature": lambda value, values: _temperature(value, values) if stage(values) == "ppo" else NOT_SAMPLED,
    "top_p": _sampling("top_p"),
    "top_k": _sampling("top_k"),
    "num_beams": _beams,
    "max_length": lambda value, values: NOT_SAMPLED if stage(values) != "ppo" else Meaning(reason="`max_new_tokens` limits completions"),
    "max_new_tokens": _sampling("max_completion_length"),
    "repetition_penalty": _sampling("repetition_penalty"),
    "length_penalty": Meaning(reason="only beam search reads it"),
    "skip_special_tokens": Meaning(reason="it only changes how predictions are printed"),
}  # fmt: skip
