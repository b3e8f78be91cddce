"""Build a random model, rollouts of random tokens, and TRL's and our trainer on them."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from benchmarks import setting
from trl_ext import PPOConfig, PPOTrainer

VOCABULARY = 16_384
FIRST = 2
"""The first token that is neither padding nor end in the random model."""
Rollout = dict[str, torch.Tensor]


def model_folder(given: str | None, hidden: int, layers: int) -> str:
    """The folder of a model: the given one, or that of a random Llama with a tokenizer of one token per word."""
    if given is not None:
        return given
    folder = tempfile.mkdtemp()
    words = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(FIRST, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    setting.write_llama(folder, VOCABULARY, hidden, layers)
    return folder


def vocabulary(folder: str) -> int:
    return json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["vocab_size"]


def random_tokens(size: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Tokens of a vocabulary, without its first tenth, where special tokens are."""
    return torch.randint(size // 10, size, shape, generator=generator)


def make_rollout(folder: str, prompts: int, completions: int, prompt: int, completion: int, seed: int) -> Rollout:
    """Random completions of random prompts, all of one length, with advantages (B,) of mean 0."""
    generator, size = torch.Generator().manual_seed(seed), vocabulary(folder)
    ids = random_tokens(size, (prompts, prompt), generator).repeat_interleave(completions, 0)
    sampled = random_tokens(size, (prompts * completions, completion), generator)
    return {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": sampled,
        "completion_mask": torch.ones_like(sampled),
        "advantages": torch.randn(len(ids), generator=generator),
    }


def build(cls: type, config: Any, folder: str) -> Any:
    """Build a trainer that samples, with rewards of 0."""
    prompts = Dataset.from_list([{"prompt": "w2 w3"}] * config.generation_batch_size)
    return setting.build(cls, config, folder, prompts, reward=lambda completions, **_: [0.0] * len(completions))


class Trainers:
    """TRL's GRPO trainer and ours on one model in NF4, with the same LoRA on all linear layers, in float32 on a CPU.

    Args:
        folder: Of the model.
        completions: Completions of a prompt, and of a micro-batch of TRL.
        prompts: Prompts of an optimizer step.
        length: Tokens of a completion.
        row_tokens: Of our rows.
        recompute: Whether both checkpoint all layers.
    """

    def __init__(
        self, folder: str, *, completions: int, prompts: int, length: int, row_tokens: int, recompute: bool
    ) -> None:
        on_gpu = torch.cuda.is_available()
        common = {
            "output_dir": tempfile.mkdtemp(),
            "per_device_train_batch_size": completions,
            "gradient_accumulation_steps": prompts,
            "num_generations": completions,
            "max_completion_length": length,
            "gradient_checkpointing": recompute,
            "use_cpu": not on_gpu,
            "bf16": on_gpu,
            "report_to": "none",
            "max_steps": 1,
        }
        self.trl = build(GRPOTrainer, GRPOConfig(**common, loss_type="grpo", beta=0.0), folder)
        ours = PPOConfig(**common, advantage="grpo", kl_coef=0.0, row_tokens=row_tokens)
        self.ours = build(PPOTrainer, ours, folder)
        for trainer in (self.trl, self.ours):
            _randomise(trainer.model)
            if recompute:
                trainer.model.gradient_checkpointing_enable()  # as `train()` does, which is not called here
            trainer.current_gradient_accumulation_steps = prompts
            trainer._prepare_inputs = lambda inputs: inputs  # rollouts are given

    def our_micro_batches(self, rollout: Rollout) -> list[Rollout]:
        """A rollout as our update reads it. As in TRL, the update's own pass is the only one: no old policy, no reference."""
        mask = rollout["completion_mask"]
        targets = {"token_advantages": rollout["advantages"].unsqueeze(1).expand_as(mask), "loss_mask": mask}
        numbers = {"mean_length": mask.sum().float() / len(mask)}
        return [part | numbers for part in self.micro_batches(rollout | targets)]

    def micro_batches(self, rollout: Rollout) -> list[Rollout]:
        """A rollout, one prompt with its completions after the other."""
        size = self.trl.args.per_device_train_batch_size
        starts = range(0, len(rollout["prompt_ids"]), size)
        return [{name: value[start : start + size] for name, value in rollout.items()} for start in starts]


def step(trainer: Any, micro_batches: list[Rollout]) -> dict[str, torch.Tensor]:
    """Run an optimizer step without the optimizer. Returns the gradients."""
    trainer.model.zero_grad()
    for number, batch in enumerate(micro_batches, start=1):
        trainer.accelerator.gradient_state._set_sync_gradients(number == len(micro_batches))
        trainer.training_step(trainer.model, batch, None)
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


def _randomise(model: torch.nn.Module) -> None:
    """Give both trainers the same adapter, whose B is not zero."""
    generator = torch.Generator().manual_seed(7)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter)
