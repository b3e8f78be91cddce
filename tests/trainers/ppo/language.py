"""A language small enough to sum over: three tokens, at most three steps, fifteen completions."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EOS, A, B = 0, 1, 2
STEPS = 3
PROMPT = "a"

COMPLETIONS = [
    ids
    for length in range(1, STEPS + 1)
    for ids in itertools.product((EOS, A, B), repeat=length)
    if EOS not in ids[:-1] and (ids[-1] == EOS or length == STEPS)
]


def rewards(seed: int = 2) -> dict[tuple[int, ...], float]:
    generator = torch.Generator().manual_seed(seed)
    return dict(zip(COMPLETIONS, torch.randn(len(COMPLETIONS), generator=generator).tolist(), strict=True))


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"<eos>": EOS, "a": A, "b": B}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>", padding_side="left")


def model(seed: int = 0, scale: float = 10.0) -> GPT2LMHeadModel:
    """A random one-layer model of the language; `scale` widens its initialisation until it has opinions.

    Learned positions, since attention alone cannot tell how often the same token was repeated.
    """
    torch.manual_seed(seed)
    made = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=3,
            n_embd=32,
            n_layer=1,
            n_head=2,
            n_positions=8,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            pad_token_id=EOS,
            bos_token_id=None,
            eos_token_id=EOS,
        )
    )
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return made


@torch.no_grad()
def log_probabilities(network: torch.nn.Module) -> torch.Tensor:
    """log π (15,) of every completion of the prompt, by a plain forward pass each."""
    sums = []
    for ids in COMPLETIONS:
        logits = network(input_ids=torch.tensor([[A, *ids]])).logits[0, :-1].log_softmax(-1)
        sums.append(logits.gather(1, torch.tensor(ids).unsqueeze(1)).sum())
    return torch.stack(sums).double()


def optimum(reference: torch.Tensor, worth: dict[tuple[int, ...], float], kl_coef: float) -> torch.Tensor:
    """π* ∝ π_ref·exp(r/β), (15,)."""
    values = torch.tensor([worth[ids] for ids in COMPLETIONS], dtype=torch.float64)
    return (reference + values / kl_coef).softmax(0)


def total_variation(p: torch.Tensor, q: torch.Tensor) -> float:
    return 0.5 * (p - q).abs().sum().item()


SETTINGS = {
    "max_completion_length": STEPS,
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    "logging_strategy": "no",
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "seed": 0,
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
}
"""Of every trainer on this language: AdamW whose learning rate decays to zero."""


def trained(
    cls: type, args: Any, reward: Callable[..., list[float]], prompts: int, network: GPT2LMHeadModel | None = None
) -> torch.Tensor:
    """log π (15,) of every completion after training a network (default: `model()`) by rewards of completions."""
    trainer = cls(
        model=network or model(),
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list([{"prompt": PROMPT}] * prompts),
        processing_class=tokenizer(),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", fan_in_fan_out=True),
    )
    trainer.train()
    return log_probabilities(trainer.model)
