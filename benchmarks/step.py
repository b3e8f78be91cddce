"""Compare time and memory of optimizer steps with TRL's own trainer: same model, pairs and seed, in one process.

    python -m benchmarks.step DATA [--pairs 8] [--rounds 3] [--hidden 512] [--layers 8]

DATA is any preference file or Hub name that `trl-ext run` reads. The model is a random Llama in 4 bits with LoRA on all
linear layers and a BPE vocabulary of 16,384 tokens trained on DATA. A step has `--pairs` pairs. TRL runs it in micro-batches,
as its users do; trl-ext takes it as one batch. TRL is measured in three ways, each better for TRL than the one before: as it
is; with the LM head on completion tokens only, as TRL does on a GPU but not on a CPU; and also with the whole selection
sorted by length, which TRL's DPO trainer cannot do.

Ratios of total times, TRL ÷ ours, are printed and saved. The first way is measured in the first round only.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from benchmarks.measure import peak_bytes, seconds
from benchmarks.setting import build, make_model
from trl_ext import data, losses
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

RESULTS = Path(__file__).parent / "results"
TRIED = {"dpo": "sigmoid", "ipo": "ipo", "hinge": "hinge", "apo_zero": "apo_zero"}
"""Losses that are tried one after the other, all with a reference, and TRL's names for them."""

AS_IS, NARROW, SORTED = "as is", "head on completions", "head on completions, sorted"
WAYS = (AS_IS, NARROW, SORTED)

Step = Callable[[], None]


@contextmanager
def narrow_head() -> Iterator[None]:
    """Inside, TRL's LM head projects completion tokens only, as it does on a GPU."""
    before = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = lambda device: True
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = before


def trl_step(trainer: Any, examples: list[dict], batch: int, way: str) -> Step:
    """TRL's step over `examples` in micro-batches of `batch`."""
    batches = [trainer.data_collator(examples[i : i + batch]) for i in range(0, len(examples), batch)]

    def run() -> None:
        trainer.current_gradient_accumulation_steps = len(batches)
        trainer.model.zero_grad()
        for inputs in batches:
            trainer.training_step(trainer.model, dict(inputs))

    def run_narrow() -> None:
        with narrow_head():
            run()

    return run if way == AS_IS else run_narrow


def our_step(trainer: Any, examples: list[dict], loss: str | None = None) -> Step:
    """Our step over `examples`."""

    def run() -> None:
        if loss is not None:
            trainer.loss = trainer.row_objective.loss = losses.get(loss)
        trainer.training_step(trainer.model, examples)

    return run


def length(example: dict) -> int:
    return sum(len(ids) for name, ids in example.items() if name.endswith("_ids") and not name.startswith("KL_"))


def split(examples: list[dict], size: int) -> list[list[dict]]:
    return [examples[i : i + size] for i in range(0, len(examples) - size + 1, size)]


class Bench:
    """The trainers, and for each measurement a list of steps, one per round."""

    def __init__(self, words: argparse.Namespace, folder: str, dataset: Dataset) -> None:
        settings = {
            "output_dir": tempfile.mkdtemp(),
            "per_device_train_batch_size": words.pairs,
            "max_length": words.max_length,
            "use_cpu": not torch.cuda.is_available(),
            "bf16": torch.cuda.is_available(),
            "report_to": "none",
        }
        stored = {**settings, "gradient_checkpointing": False}

        def ours(**changes: Any) -> PairedPreferenceTrainer:
            return build(PairedPreferenceTrainer, PairedPreferenceConfig(**stored, **changes), folder, dataset)

        self.trl = build(DPOTrainer, DPOConfig(**stored), folder, dataset)
        self.trl_default = build(DPOTrainer, DPOConfig(**settings), folder, dataset)
        self.trl_default.model.gradient_checkpointing_enable()  # as `train()` does, which is not called here
        self.padded = ours(packing=False, reference_cache=False)
        self.packed = ours(reference_cache=False)
        self.cached = ours()
        kto = {**stored, "train_sampling_strategy": "sequential"}
        self.trl_kto = build(KTOTrainer, KTOConfig(**{**kto, "per_device_train_batch_size": 8}), folder, dataset)
        self.our_kto = build(
            UnpairedPreferenceTrainer, UnpairedPreferenceConfig(**kto, reference_cache=False), folder, dataset
        )
        self.pairs = list(self.trl.train_dataset)
        self.steps = split(self.pairs, words.pairs)
        self.kto_examples = list(self.trl_kto.train_dataset)[: 2 * len(self.pairs)]
        self.timed: dict[str, list[Step]] = {}
        self._pairs(words.pairs)
        self._kto(2 * words.pairs)

    def _pairs(self, size: int) -> None:
        for way in WAYS:
            steps = split(sorted(self.pairs, key=length), size) if way == SORTED else self.steps
            for batch in (4, 8):
                self.timed[f"TRL, {batch} pairs, {way}"] = [trl_step(self.trl, s, batch, way) for s in steps]
            self.timed[f"TRL default, 8 pairs, {way}"] = [trl_step(self.trl_default, s, 8, way) for s in steps]
        for name in ("padded", "packed", "cached"):
            self.timed[name] = [our_step(getattr(self, name), step) for step in self.steps]

    def _kto(self, size: int) -> None:
        for way in (AS_IS, NARROW):  # sorting would pair completions with prompts of their own length
            self.timed[f"TRL KTO, {way}"] = [trl_step(self.trl_kto, s, 8, way) for s in split(self.kto_examples, size)]
        bare = [{k: v for k, v in example.items() if not k.startswith("KL_")} for example in self.kto_examples]
        self.timed["our KTO"] = [our_step(self.our_kto, step) for step in split(bare, size)]

    def warm_up(self) -> None:
        """Verify packing, fill the reference cache, and allocate every trainer's memory."""
        for trainer in (self.trl, self.trl_default):
            trl_step(trainer, self.pairs[:2], 2, NARROW)()
        trl_step(self.trl_kto, self.kto_examples[:8], 8, NARROW)()
        for name in ("padded", "packed", "cached", "our KTO"):
            for step in self.timed[name][: None if name == "cached" else 1]:
                step()

    def four_losses(self) -> dict[str, float]:
        """Seconds of one step with each loss in turn, starting with an empty reference cache."""
        os.environ["TRL_EXT_CACHE"] = tempfile.mkdtemp()
        references = self.cached.references
        filled, references.cache = references.cache, references.new_cache()
        found = {way: 0.0 for way in (AS_IS, NARROW, "ours")}
        for ours, theirs in TRIED.items():
            self.trl.loss_types = [theirs]
            for way in (AS_IS, NARROW):
                found[way] += seconds(trl_step(self.trl, self.steps[0], 4, way))
            found["ours"] += seconds(our_step(self.cached, self.steps[0], ours))
        references.cache, self.trl.loss_types = filled, ["sigmoid"]
        return found

    def tokens(self) -> dict[str, int]:
        """Tokens of one forward pass over all pairs: padded in TRL's micro-batches, and packed in ours."""
        padded = {f"TRL, {batch} pairs": sum(padded_tokens(step, batch) for step in self.steps) for batch in (4, 8)}
        return {**padded, "ours": sum(self.packed.rows.size(step) for step in self.steps)}

    def memory(self) -> dict[str, int]:
        """Peak bytes of a step of 8 pairs, without checkpointing and without cached reference."""
        eight = self.pairs[:8]
        return {
            **{way: peak_bytes(trl_step(self.trl, eight, 8, way)) for way in (AS_IS, NARROW)},
            "ours": peak_bytes(our_step(self.packed, eight)),
        }


ROWS = (
    # what, TRL's entry up to the way it is taken, ours
    ("4 pairs per TRL micro-batch", "TRL, 4 pairs", "packed"),
    ("8 pairs per TRL micro-batch", "TRL, 8 pairs", "packed"),
    ("4 pairs, reference cached (the second loss tried)", "TRL, 4 pairs", "cached"),
    ("8 pairs, reference cached, TRL at its default (checkpointing)", "TRL default, 8 pairs", "cached"),
    ("8 pairs, our padded fallback", "TRL, 8 pairs", "padded"),
    ("KTO, 8 completions per TRL micro-batch", "TRL KTO", "our KTO"),
)


def padded_tokens(examples: list[dict], batch: int) -> int:
    """Tokens that TRL computes in one forward pass over `examples`, padding included."""
    batches = split(examples, batch)
    return sum(
        2 * len(b) * max(len(e["prompt_ids"]) + max(len(e["chosen_ids"]), len(e["rejected_ids"])) for e in b)
        for b in batches
    )


def ratios(times: dict[str, list[float]], four: dict[str, float], memory: dict[str, int]) -> dict[str, dict]:
    """TRL ÷ ours for each row of the table and each way of measuring TRL."""
    table = {}
    for what, theirs, ours in ROWS:
        found = {way: times[f"{theirs}, {way}"] for way in WAYS if f"{theirs}, {way}" in times}
        table[what] = {way: sum(each) / sum(times[ours][: len(each)]) for way, each in found.items()}
    table["four losses tried in a row, 4 pairs"] = {way: four[way] / four["ours"] for way in WAYS if way in four}
    table["peak memory of a step, 8 pairs, no checkpointing"] = {
        way: memory[way] / memory["ours"] for way in WAYS if way in memory
    }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--pairs", type=int, default=8, help="pairs per optimizer step")
    parser.add_argument("--rounds", type=int, default=3, help="optimizer steps timed, each once per variant")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=1024)
    words = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    os.environ["TRL_EXT_CACHE"] = tempfile.mkdtemp()
    folder = tempfile.mkdtemp()
    dataset = data.load(words.data).dataset
    make_model(folder, dataset, words.hidden, words.layers)
    bench = Bench(words, folder, dataset.shuffle(seed=0).select(range(words.pairs * words.rounds)))
    bench.warm_up()
    times: dict[str, list[float]] = {name: [] for name in bench.timed}
    for number in range(words.rounds):
        for name, steps in bench.timed.items():
            if number == 0 or not name.endswith(AS_IS):
                times[name].append(seconds(steps[number]))
    four, memory = bench.four_losses(), bench.memory()
    table = ratios(times, four, memory)
    show(table)
    save(words, table, seconds=times, seconds_four_losses=four, peak_bytes=memory, tokens=bench.tokens())


def show(table: dict[str, dict[str, float]]) -> None:
    shown = Table("TRL ÷ ours", *(f"TRL {way}" for way in WAYS))
    for what, found in table.items():
        shown.add_row(what, *(f"{found[way]:.2f}" if way in found else "" for way in WAYS))
    Console().print(shown)


def save(words: argparse.Namespace, table: dict[str, dict[str, float]], **measured: dict) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "versions": {module.__name__: module.__version__ for module in (torch, trl)},
        "data": Path(words.data).name,
        "settings": {key: value for key, value in vars(words).items() if key != "data"},
        **measured,
        "ratios": table,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"step-{device}.json"
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"saved {path}")


if __name__ == "__main__":
    main()
