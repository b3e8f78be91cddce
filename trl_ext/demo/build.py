"""Rebuild the embedded model and its preference pairs from the grammar alone.

    python -m trl_ext.demo.build [--out DIR]

Deterministic on one machine; takes about ten CPU minutes. Prints measurements of the model as the recipes load it, in 4 bits.
"""

import argparse
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from trl_ext.demo import DATA, MODEL, grammar
from trl_ext.demo.pairs import sample_pairs, write_jsonl
from trl_ext.demo.pretrain import new_model, pretrain
from trl_ext.demo.tokenizer import train_tokenizer
from trl_ext.support.counts import count
from trl_ext.support.sampling import sample

SEED = 0
HIDDEN_SIZE, N_LAYERS = 192, 2
PRETRAINING = {"steps": 3000, "batch_size": 32, "learning_rate": 2e-3}
PAIRS = {"n_answers": 4, "min_gap": 0.5, "max_new_tokens": 80}
N_TRAIN, N_TEST = 1000, 200


def main() -> None:
    """Train the tokenizer and the model, sample the pairs from the model, and write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=MODEL.parent,
        metavar="DIR",
        help="parent folder of model/ and data/ (default: the package)",
    )
    parser.add_argument("--threads", type=int, default=2, metavar="COUNT", help="CPU threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model_dir, data_dir = arguments.out / MODEL.name, arguments.out / DATA.name

    build_model(model_dir)
    model, tokenizer = load_in_4bit(model_dir)
    build_pairs(model, tokenizer, data_dir)
    for folder in (model_dir, data_dir):
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size / 1e6:.2f} MB")


def build_model(folder: Path) -> None:
    """Train tokenizer and model and save them to `folder`, the weights in bfloat16."""
    tokenizer = new_tokenizer()
    torch.manual_seed(SEED)
    model = new_model(tokenizer, HIDDEN_SIZE, N_LAYERS)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    start = time.process_time()
    pretrain(model, tokenizer, grammar.prompts(), seed=SEED, **PRETRAINING)
    print(f"pretrained in {time.process_time() - start:.0f} CPU-seconds")
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def new_tokenizer() -> PreTrainedTokenizerBase:
    """Train the tokenizer on every prompt and on 5,000 reviews."""
    prompts = grammar.prompts()
    rng = random.Random(SEED)
    reviews = [grammar.write_review(rng.choice(prompts).thing, rng) for _ in range(5000)]
    return train_tokenizer([prompt.text for prompt in prompts] + reviews, vocab_size=2048)


def build_pairs(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Sample the pairs, with different prompts in train and test, and print measurements of the model."""
    prompts = grammar.prompts()
    random.Random(SEED).shuffle(prompts)
    measure(model, tokenizer, prompts)
    n_test_prompts = len(prompts) * N_TEST // (N_TRAIN + N_TEST)
    test, train = prompts[:n_test_prompts], prompts[n_test_prompts:]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part, n_pairs in (("train", train, N_TRAIN), ("test", test, N_TEST)):
        pairs = sample_pairs(model, tokenizer, part, seed=SEED, **PAIRS)[:n_pairs]
        write_jsonl(pairs, folder / f"{name}.jsonl")
        chosen, rejected = (
            statistics.fmean(grammar.reward(pair[side][0]["content"]) for pair in pairs)
            for side in ("chosen", "rejected")
        )
        print(f"{name}: {count(len(pairs), 'pairs')}, mean reward chosen {chosen:.3f}, rejected {rejected:.3f}")


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[grammar.Prompt]) -> None:
    """Print mean fluency and reward of one sample per prompt."""
    completions = sample(model, tokenizer, [prompt.text for prompt in prompts], seed=SEED, max_new_tokens=80)
    fluency = statistics.fmean(
        grammar.fluency(completion.text, prompt.thing) for completion, prompt in zip(completions, prompts, strict=True)
    )
    reward = statistics.fmean(grammar.reward(completion.text) for completion in completions)
    ended = statistics.fmean(completion.is_ended for completion in completions)
    length = statistics.fmean(len(completion.ids) for completion in completions)
    print(
        f"in 4 bits, {count(len(prompts), 'samples')}: fluency {fluency:.4f}, reward {reward:.3f}, "
        f"ended {ended:.4f}, {length:.1f} tokens"
    )


def load_in_4bit(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load the saved model as the recipes do: NF4, double quantisation, matrix products in float32."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=quantization)
    return model, AutoTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    main()
