"""Sample one greedy completion per prompt and score it, for an advantage whose baseline is its reward (ReMax)."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from trl.data_utils import is_conversational

from trl_ext.rl import rewards
from trl_ext.trainers.common.temporarily import temporarily
from trl_ext.trainers.rollout import scores as total

OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
"""Generation settings that only a sampled completion reads."""


def scores(trainer: Any, inputs: list[dict[str, Any]]) -> Tensor:
    """Score (B,) of a greedy completion of the prompt of each row, NaN where no reward source applies.

    Prompts that are repeated one after the other get one greedy completion. It is scored once per row, so that every
    process scores as many completions as it sampled. A KL in the reward is left out: any number that does not depend on
    the sampled completion is a baseline without bias.

    Args:
        trainer: A `RolloutTrainer` outside of its rollout.
        inputs: Rows of the data, one per sampled completion.
    """
    prompts = [example["prompt"] for example in inputs]
    is_new = [i == 0 or prompt != prompts[i - 1] for i, prompt in enumerate(prompts)]
    settings = {name: value for name, value in trainer.generation_kwargs.items() if name not in OF_SAMPLING}
    settings |= {"do_sample": False}
    # What a reward function logs belongs to the sampled completions.
    logs = {"_pending_extra_logs": defaultdict(list), "_pending_metrics": defaultdict(list)}
    greedy = {"generation_kwargs": settings, "generation_config": GenerationConfig(**settings, disable_compile=True)}
    with temporarily(trainer, **greedy, **logs), torch.no_grad():
        distinct = [prompt for prompt, new in zip(prompts, is_new, strict=True) if new]
        ids = trainer._generate_single_turn(*trainer._tokenize_prompts(distinct))
        texts = trainer.processing_class.batch_decode(ids, skip_special_tokens=True)
        if is_conversational({"prompt": prompts[0]}):
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        place = torch.tensor(is_new).cumsum(0).sub(1).tolist()
        ids, texts = [ids[i] for i in place], [texts[i] for i in place]
        found = total.of(trainer, trainer._calculate_rewards(inputs, prompts, texts, ids), len(inputs))
    penalty = trainer.args.missing_eos_penalty
    if penalty is None:
        return found
    is_ended = torch.tensor([each[-1] in trainer.eos_token_ids for each in ids], device=found.device)
    return rewards.penalise_missing_eos(found, is_ended, penalty)
