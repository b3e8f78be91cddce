"""The sources of scores: reward functions, sequence classifiers, reward adapters. Each is called with prompts and answers.

Answers are scored as PPO scores completions. To a prompt that is a conversation, an answer is a message of the assistant, and the
chat template writes both. To a prompt that is text, an answer is the text that continues it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from trl import apply_chat_template
from trl.trainer.utils import is_async_callable

from trl_ext.judging.judge import Prompt, key, variables_of
from trl_ext.judging.scores import Scorer
from trl_ext.model_files import reward
from trl_ext.support.batches import in_batches
from trl_ext.support.errors import UserError
from trl_ext.support.sampling import inference
from trl_ext.trainers.rollout.reward_adapter import RewardAdapter
from trl_ext.trainers.rollout.reward_functions import check_models, checked

BATCH_TOKENS = 16_384
"""Padded tokens in a forward pass; halved where memory runs out."""


def function_scorer(
    function: Callable[..., Any],
    tokenizer: Any,
    known_prompts: Sequence[Prompt] = (),
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Scorer:
    """Score with a reward function, synchronous or not. It gets what TRL passes.

    Args:
        function: The function.
        tokenizer: Of the model that wrote the answers, for `completion_ids`.
        known_prompts: The prompts of the rows with these columns.
        columns: Columns of the data besides the prompt, a value per prompt.

    Raises (when called):
        UserError: The function raised, or did not return a number or `None` for each answer.
    """
    call = checked(function)
    row_of = {key(prompt): row for row, prompt in enumerate(known_prompts)}

    def score(prompts: list[Prompt], answers: list[str]) -> Sequence[float | None]:
        rows = [row_of[key(prompt)] for prompt in prompts] if columns else []
        returned = call(
            **{name: [values[row] for row in rows] for name, values in (columns or {}).items()},
            prompts=prompts,
            completions=[_as_completion(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)],
            completion_ids=[tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers],
            trainer_state=None,
            log_extra=_ignore,
            log_metric=_ignore,
        )
        return asyncio.run(returned) if is_async_callable(function) else returned

    return score


def classifier_scorer(model: Any, tokenizer: Any, name: str, batch_tokens: int = BATCH_TOKENS) -> Scorer:
    """Score with a sequence classifier of one label, which reads the last token that is not padding.

    Args:
        model: The classifier. Its configuration gets the tokenizer's padding token, as TRL sets it.
        tokenizer: Its own; the end-of-sequence token pads if there is no padding token.
        name: For error messages.
        batch_tokens: Padded tokens in a forward pass.

    Raises (when called):
        UserError: A score is NaN or infinite.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id

    @torch.no_grad()
    def compute(rows: Sequence[list[int]]) -> list[float]:
        padded = tokenizer.pad({"input_ids": list(rows)}, padding_side="right", return_tensors="pt").to(model.device)
        with inference(model):
            return model(**padded).logits[:, 0].float().tolist()

    def score(prompts: list[Prompt], answers: list[str]) -> list[float]:
        texts = [_whole(prompt, answer, tokenizer) for prompt, answer in zip(prompts, answers, strict=True)]
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        scores = list(in_batches(rows, batch_tokens, compute, len))
        check_models([model], [name], torch.tensor(scores).unsqueeze(1))
        return scores

    return score


def adapter_scorer(folder: str, model: PeftModel, tokenizer: Any, batch_size: int = 16) -> Scorer:
    """Score with a reward adapter on the base that is loaded already. The policy's adapter is active outside of the calls.

    Args:
        folder: The run directory of a reward model that was trained with an adapter.
        model: The policy, with an adapter on the same base.
        tokenizer: The policy's.
        batch_size: Answers in a forward pass; halved where memory runs out.

    Raises:
        UserError: Not the folder of a reward adapter, or one that does not fit this model. When called: a score is not finite.
    """
    if not isinstance(model, PeftModel):
        raise UserError(
            f"The judge {folder} is a reward adapter, which needs a model with an adapter on the same base. All weights of this "
            "model were trained. Export the reward model (`trl-ext export`), and name the exported folder."
        )
    base = model.peft_config[model.active_adapter].base_model_name_or_path
    if (problem := reward.problem(folder, base)) is not None:
        raise UserError(f"The judge is {folder}, {problem}")
    adapter = RewardAdapter(folder, base)
    try:
        adapter.attach(
            model,
            tokenizer=tokenizer,
            tokenize=lambda prompts: [prompt_ids(prompt, tokenizer) for prompt in prompts],
        )
    except ValueError as error:
        raise UserError(str(error)) from error

    def compute(batch: Sequence[tuple[Prompt, str]]) -> list[float]:
        ids = [
            [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for _, answer in batch
        ]
        return adapter([prompt for prompt, _ in batch], ids)

    def score(prompts: list[Prompt], answers: list[str]) -> list[float]:
        scores = list(in_batches(list(zip(prompts, answers, strict=True)), batch_size, compute))
        check_models([adapter], [folder], torch.tensor(scores).unsqueeze(1))
        return scores

    return score


def _as_completion(prompt: Prompt, answer: str) -> str | list[dict[str, str]]:
    return answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]


def _whole(prompt: Prompt, answer: str, tokenizer: Any) -> str:
    if isinstance(prompt, str):
        return prompt + answer
    messages = [*prompt, *_as_completion(prompt, answer)]
    return apply_chat_template({"messages": messages}, tokenizer, **variables_of(prompt))["text"]


def prompt_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Token ids of a prompt, as TRL's preference trainers tokenise it. A message of the assistant at its end is continued."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    is_begun = prompt[-1]["role"] == "assistant"
    return tokenizer.apply_chat_template(
        list(prompt),
        add_generation_prompt=not is_begun,
        continue_final_message=is_begun,
        return_dict=False,
        **variables_of(prompt),
    )


def _ignore(*args: Any) -> None:
    """In place of TRL's functions for logging."""
