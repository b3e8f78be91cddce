"""Build a random model, rollouts of random tokens, and TRL's and our trainer on them."""

import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from trl_ext import PPOConfig, PPOTrainer

VOCABULARY = 32_000
Rollout = dict[str, torch.Tensor]


def make_model(folder: str, hidden: int, layers: int) -> None:
    """Write a random Llama of `VOCABULARY` words, and a tokenizer of one token per word."""
    words = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(hidden // 256, 1),
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_rollout(prompts: int, completions: int, prompt: int, completion: int, seed: int) -> Rollout:
    """Random completions of random prompts, all of one length, with advantages (B,) of mean 0."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(rows: int, width: int) -> torch.Tensor:
        return torch.randint(2, VOCABULARY, (rows, width), generator=generator)

    ids = tokens(prompts, prompt).repeat_interleave(completions, 0)
    sampled = tokens(prompts * completions, completion)
    return {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": sampled,
        "completion_mask": torch.ones_like(sampled),
        "advantages": torch.randn(len(ids), generator=generator),
    }


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
        self.trl = _build(GRPOTrainer, GRPOConfig(**common, loss_type="grpo", beta=0.0), folder)
        ours = PPOConfig(**common, advantage="grpo", row_tokens=row_tokens)
        self.ours = _build(PPOTrainer, ours, folder)
        for trainer in (self.trl, self.ours):
            _randomise(trainer.model)
            if recompute:
                trainer.model.gradient_checkpointing_enable()  # as `train()` does, which is not called here
            trainer.current_gradient_accumulation_steps = prompts
            trainer._prepare_inputs = lambda inputs: inputs  # rollouts are given

    def our_micro_batches(self, rollout: Rollout) -> list[Rollout]:
        """A rollout as our update reads it, where the policy is still the one that sampled it."""
        mask = rollout["completion_mask"]
        with torch.no_grad():
            scored = self.ours._score(rollout)
        targets = {
            "old_per_token_logps": scored.logps,
            "token_advantages": rollout["advantages"].unsqueeze(1).expand_as(mask),
            "loss_mask": mask,
        }
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


def _build(cls: type, config: Any, folder: str) -> Any:
    on_gpu = torch.cuda.is_available()
    trainer = cls(
        model=folder,
        args=config,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=Dataset.from_list([{"prompt": "w2 w3"}] * config.generation_batch_size),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
        ),
    )
    if not on_gpu:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # TRL casts them to bfloat16, which most CPUs emulate
    return trainer


def _randomise(model: torch.nn.Module) -> None:
    """Give both trainers the same adapter, whose B is not zero."""
    generator = torch.Generator().manual_seed(7)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator).to(parameter)
