"""Measure true reward against KL on the embedded model: PPO, losses on pairs, and best-of-n as a baseline.

    python -m benchmarks.frontier [--cells 'ppo*' best-of-n]

Every cell is one training run, evaluated by `benchmarks.completions` on completions of held-out prompts: true reward, fluency,
and KL to the base in nats per completion. Cells are compared at the measured KL, because coefficients of different methods have
different meanings. A finished cell is saved at once and not run again; to repeat it, delete it from the results. Losses on
pairs train as in recipes/demo.yaml, PPO on the prompts of the same pairs.

Best-of-n is drawn at ln n − (n−1)/n nats. This is its KL if every completion is unlikely and no two have the same reward, and
an upper bound otherwise (Beirami et al. 2024, arXiv:2401.01879); here many completions have the same reward. The upper bound for
any policy at a KL is the optimum π ∝ π_ref·exp(reward/β), computed from the same samples of the base.
"""

import argparse
import fnmatch
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trl
from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig

from benchmarks.completions import evaluate, grammar_fluency, held_out_prompts
from benchmarks.frontier_picture import Method, draw, table
from trl_ext import data, demo
from trl_ext.demo.build import load_in_4bit
from trl_ext.demo.grammar import reward
from trl_ext.demo.rewards import sentiment
from trl_ext.support.sampling import sample
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    PPOConfig,
    PPOTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

RESULTS = Path(__file__).parent / "results" / "frontier.json"
PICTURE = Path(__file__).parents[1] / "docs" / "frontier.png"

COMPLETIONS, LONGEST = 600, 80
"""Number of completions on which a policy is measured, and their maximum length in tokens."""
DRAWN, SIZES = 64, (1, 2, 3, 4, 6, 8, 12, 16, 32)
"""Completions of the base per held-out prompt, and the values of n for best-of-n, which share them."""
PRICES = (100, 3, 1.6, 1, 0.8, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.16, 0.13, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02)
"""Values of β for the points of the optimum, in units of reward per nat."""

COMMON = {"learning_rate": 5e-4, "seed": 0, "use_cpu": True, "bf16": False, "dataloader_pin_memory": False}
COMMON |= {"report_to": "none", "save_strategy": "no", "logging_steps": 20, "disable_tqdm": True}
PREFERENCES = COMMON | {"per_device_train_batch_size": 32, "max_steps": 80, "max_length": 256}
PREFERENCES |= {"lr_scheduler_type": "cosine", "warmup_steps": 5}
ROLLOUTS = COMMON | {"per_device_train_batch_size": 64, "num_iterations": 2, "max_steps": 60, "learning_rate": 1e-3}
ROLLOUTS |= {"critic_learning_rate": 1e-2, "lr_scheduler_type": "linear", "gradient_checkpointing": False}
ROLLOUTS |= {"max_completion_length": LONGEST}

K2 = {"kl_estimator": "k2", "kl_placement": "loss"}
METHODS = {
    "ppo-k1": Method("PPO, k1 in the reward", "kl_coef", (0.6, 0.3, 0.1, 0.05, 0.02), {}, "tab:red", "o"),
    "ppo-k2": Method("PPO, sequence k2 in the loss", "kl_coef", (0.6, 0.3, 0.1), K2, "tab:orange", "s"),
    "dpo": Method("DPO", "beta", (3.0, 1.0, 0.3), {}, "tab:blue", "D"),
    "ipo": Method("IPO", "beta", (8.0, 4.0, 2.0), {}, "tab:green", "^"),
    "kto": Method("KTO", "beta", (3.0, 1.0, 0.3), {}, "tab:purple", "v"),
    # Without a reference, β has little effect: 1, 2 and 4 end at the same KL.
    "simpo": Method("SimPO", "learning_rate", (1e-4, 3e-4, 4e-4, 1e-3), {"beta": 2.0}, "tab:brown", "P"),
}
BEST_OF_N = "best-of-n"


def cells() -> dict[str, Callable[[], dict[str, Any]]]:
    """The function that measures each cell, by name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {BEST_OF_N: measure_base}
    for name, method in METHODS.items():
        for value in method.values:
            found[f"{name}-{value:g}"] = lambda name=name, value=value: measure(name, value)
    return found


def measure(name: str, value: float) -> dict[str, Any]:
    """Train one method with one coefficient, and measure the policy."""
    method = METHODS[name]
    settings = method.settings | {method.coefficient: value}
    started = time.process_time()
    trainer = build(name, settings)
    trainer.train()
    trained = time.process_time() - started
    found = evaluate(trainer.model, trainer.processing_class, n=COMPLETIONS, max_new_tokens=LONGEST, n_samples=2)
    return {"method": name, "settings": settings, "cpu_seconds": round(trained, 1), **found}


def build(name: str, settings: dict[str, Any]) -> Any:
    """The trainer of a method on the embedded model in 4 bits, with LoRA of rank 16 on all linear layers."""
    pairs = data.load(str(demo.DATA), split="train")
    extra: dict[str, Any] = {}
    if name.startswith("ppo"):
        cls, config, common, dataset = PPOTrainer, PPOConfig, ROLLOUTS, pairs.dataset.select_columns("prompt")
        extra["reward_funcs"] = sentiment
    elif name == "kto":
        cls, config, common = UnpairedPreferenceTrainer, UnpairedPreferenceConfig, PREFERENCES | {"loss": name}
        dataset = data.unpair(pairs).dataset
    else:
        cls, config, common = PairedPreferenceTrainer, PairedPreferenceConfig, PREFERENCES | {"loss": name}
        dataset = pairs.dataset
    return cls(
        model=str(demo.MODEL),
        args=config(output_dir=tempfile.mkdtemp(), **common | settings),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(demo.MODEL),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
        **extra,
    )


def measure_base() -> dict[str, Any]:
    """Best-of-n and the optimum from `DRAWN` completions of the base per held-out prompt."""
    started = time.process_time()
    model, tokenizer = load_in_4bit(demo.MODEL)
    prompts = held_out_prompts()
    rounds = [
        sample(model, tokenizer, prompts, seed=1000 + i, max_new_tokens=LONGEST, batch_size=len(prompts))
        for i in range(DRAWN)
    ]
    texts = [[completion.text for completion in answers] for answers in zip(*rounds, strict=True)]
    rewards = [list(map(reward, answers)) for answers in texts]
    fluency = [
        [grammar_fluency(text, prompt) for text in answers] for prompt, answers in zip(prompts, texts, strict=True)
    ]
    return {
        "prompts": len(prompts),
        "points": [best_of(n, rewards, fluency) for n in SIZES],
        "optimum": [optimum(rewards, price) for price in PRICES],
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def best_of(n: int, rewards: list[list[float]], fluency: list[list[float]]) -> dict[str, float]:
    """Mean reward and fluency of the best of every n completions of a prompt, with standard errors over prompts.

    Args:
        rewards, fluency: Per prompt, per completion.
    """
    chosen = [
        [max(range(start, start + n), key=each.__getitem__) for start in range(0, len(each) - n + 1, n)]
        for each in rewards
    ]
    found = {"n": n, "kl": math.log(n) - (n - 1) / n}
    for name, values in (("reward", rewards), ("fluency", fluency)):
        means = [statistics.fmean(each[i] for i in best) for each, best in zip(values, chosen, strict=True)]
        found[name] = statistics.fmean(means)
        found[f"{name}_se"] = statistics.stdev(means) / math.sqrt(len(means))
    return found


def optimum(rewards: list[list[float]], price: float) -> dict[str, float]:
    """Reward and KL of π ∝ π_ref·exp(r/β), which has the highest mean reward of all policies with the same KL.

    With Z = E_ref[exp(r/β)] per prompt, the mean reward is E_ref[r·exp(r/β)]/Z, and the KL is that divided by β, minus ln Z.

    Args:
        rewards: Rewards of completions of the base, per prompt.
        price: β.
    """
    r = torch.tensor(rewards, dtype=torch.float64)
    log_z = (r / price).logsumexp(1) - math.log(r.shape[1])
    mean = ((r / price).softmax(1) * r).sum(1)
    return {"beta": price, "reward": mean.mean().item(), "kl": (mean / price - log_z).mean().item()}


def save(record: dict[str, Any]) -> None:
    """Write the results atomically."""
    RESULTS.parent.mkdir(exist_ok=True)
    draft = RESULTS.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cells", nargs="+", default=["*"], help="names or patterns of cells (default: all that are missing)"
    )
    words = parser.parse_args()
    every = cells()
    unknown = [pattern for pattern in words.cells if not fnmatch.filter(every, pattern)]
    if unknown:
        parser.error(f"no cell matches {unknown[0]}; the cells are {', '.join(every)}")
    torch.set_num_threads(1)
    os.environ["TRL_EXT_CACHE"] = tempfile.mkdtemp()
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"cells": {}}
    for name, run in every.items():
        if name in record["cells"] or not any(fnmatch.fnmatch(name, pattern) for pattern in words.cells):
            continue
        record["cells"][name] = run()
        record |= {"date": time.strftime("%Y-%m-%d"), "device": f"CPU ({platform.machine()}), 1 thread"}
        record["versions"] = {module.__name__: module.__version__ for module in (torch, trl)}
        save(record)
        print(f"{name}: saved", flush=True)
    if BEST_OF_N in record["cells"]:
        record["table"] = table(record["cells"], METHODS, record["cells"][BEST_OF_N])
        save(record)
        draw(record["cells"], METHODS, record["cells"][BEST_OF_N], PICTURE)
        print(f"saved {PICTURE}")


if __name__ == "__main__":
    main()
