"""Pretrain the embedded model, a tiny Llama, on newly generated text of the grammar."""

import random
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from trl_ext.demo import grammar


def new_model(tokenizer: PreTrainedTokenizerBase, hidden_size: int, n_layers: int) -> LlamaForCausalLM:
    """An untrained Llama with heads of 32 and tied embeddings.

    Widths are multiples of 64, the block size of NF4, so that no block spans two rows of a weight.
    """
    n_heads = hidden_size // 32
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-len(tokenizer) // 64) * 64,
            hidden_size=hidden_size,
            intermediate_size=-(-hidden_size * 8 // 3 // 64) * 64,
            num_hidden_layers=n_layers,
            num_attention_heads=n_heads,
            num_key_value_heads=n_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            initializer_range=0.03,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[grammar.Prompt],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    log: Callable[[str], None] = print,
) -> float:
    """Train `model` in place on reviews that are generated during training, so that none is seen twice.

    The loss is the cross-entropy of the review and its end token, in nats per token, averaged over the tokens of
    the batch; prompt tokens have no loss. AdamW, 5 % warm-up, then cosine decay to zero.

    Returns:
        The mean loss of the last 50 steps.
    """
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.05, cycle_momentum=False
    )
    model.train()
    losses: list[float] = []
    start = time.perf_counter()
    for step in range(1, steps + 1):
        loss = model(**_batch([rng.choice(prompts) for _ in range(batch_size)], tokenizer, rng)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses = [*losses[-49:], loss.item()]
        if step % max(1, steps // 20) == 0:
            mean = sum(losses) / len(losses)
            log(f"step {step:>5}/{steps}  loss {mean:.4f} nats/token  {time.perf_counter() - start:.0f} s")
    model.eval()
    return sum(losses) / len(losses)


def _batch(
    prompts: list[grammar.Prompt], tokenizer: PreTrainedTokenizerBase, rng: random.Random
) -> dict[str, torch.Tensor]:
    """One new review per prompt as right-padded (B, T) tensors; prompt and padding have the label -100."""
    rows = []
    for prompt in prompts:
        question = render(prompt.text, tokenizer)
        answer = grammar.write_review(prompt.thing, rng) + tokenizer.eos_token
        rows.append([tokenizer(text, add_special_tokens=False)["input_ids"] for text in (question, answer)])
    width = max(len(question) + len(answer) for question, answer in rows)
    batch: dict[str, list] = {"input_ids": [], "attention_mask": [], "labels": []}
    for question, answer in rows:
        n_pad = width - len(question) - len(answer)
        batch["input_ids"].append(question + answer + [tokenizer.pad_token_id] * n_pad)
        batch["attention_mask"].append([1] * (width - n_pad) + [0] * n_pad)
        batch["labels"].append([-100] * len(question) + answer + [-100] * n_pad)
    return {name: torch.tensor(values) for name, values in batch.items()}


def render(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the model continues: the prompt as a user message in the chat template."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
