"""The optimizer steps that are measured: TRL's and ours on the same pairs, by name."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
import trl.trainer.utils
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from benchmarks.setting import build
from benchmarks.step_record import AS_IS, LAYERS, NARROW, SORTED, WAYS
from trl_ext import losses
from trl_ext.trainers import (
    PairedPreferenceConfig,
    PairedPreferenceTrainer,
    UnpairedPreferenceConfig,
    UnpairedPreferenceTrainer,
)

TRIED = {"dpo": "sigmoid", "ipo": "ipo", "hinge": "hinge", "apo_zero": "apo_zero"}
"""Losses that are tried one after the other, all with a reference, and TRL's names for them."""

Step = Callable[[], Any]


class Variant(NamedTuple):
    """How a step is run.

    Attributes:
        trainer: Attribute of `Trainers`.
        batch: Examples of a micro-batch of TRL; `None` for our steps, which are one batch.
        way: How TRL's LM head and the order of pairs are helped.
        layers: Number of layers of the model that are run; `None` for all.
        tries_losses: Run the step with each loss of `TRIED` in turn; ours starts with an empty reference cache.
    """

    trainer: str
    batch: int | None = None
    way: str = NARROW
    layers: int | None = None
    tries_losses: bool = False


VARIANTS = {
    **{
        f"{name}, {batch} pairs, {way}": Variant(trainer, batch, way)
        for way in WAYS
        for batch in (4, 8)
        for name, trainer in (("TRL", "trl"), ("TRL default", "trl_default"))
    },
    **{name: Variant(name) for name in ("padded", "packed", "cached")},
    "packed, checkpointing": Variant("packed_checkpointing"),
    **{f"TRL KTO, {way}": Variant("trl_kto", 8, way) for way in (AS_IS, NARROW)},
    f"TRL KTO default, {NARROW}": Variant("trl_kto_default", 8),
    "our KTO": Variant("our_kto"),
    **{f"TRL, four losses, {way}": Variant("trl", 4, way, tries_losses=True) for way in (AS_IS, NARROW)},
    "four losses": Variant("cached", tries_losses=True),
    **{f"TRL, 8 pairs, {NARROW}, {n} layers": Variant("trl", 8, layers=n) for n in LAYERS},
    **{f"packed, {n} layers": Variant("packed", layers=n) for n in LAYERS},
}


class Trainers:
    """Trainers on one model folder, each loaded when it is first needed.

    Args:
        folder: Of the model.
        dataset: For the constructors; every seed has its own pairs.
        pairs: Pairs of a step.
        max_length: Longest sequence, in tokens.
    """

    def __init__(self, folder: str, dataset: Dataset, pairs: int, max_length: int) -> None:
        self.folder, self.dataset = folder, dataset
        common = {
            "output_dir": tempfile.mkdtemp(),
            "max_length": max_length,
            "use_cpu": not torch.cuda.is_available(),
            "bf16": torch.cuda.is_available(),
            "report_to": "none",
        }
        self.paired = {**common, "per_device_train_batch_size": pairs}
        self.unpaired = {**common, "per_device_train_batch_size": 8, "train_sampling_strategy": "sequential"}

    def _make(self, cls: type, config: type, settings: dict, recompute: bool, **more: Any) -> Any:
        args = config(**settings, gradient_checkpointing=recompute, **more)
        trainer = build(cls, args, self.folder, self.dataset)
        if recompute:
            trainer.model.gradient_checkpointing_enable()  # as `train()` does, which is not called here
        return trainer

    def _ours(self, recompute: bool = False, **more: Any) -> PairedPreferenceTrainer:
        # `row_tokens: auto` has this length where memory suffices; here it must not depend on what else is running.
        more = {"row_tokens": 4096, "reference_cache": False, **more}
        return self._make(PairedPreferenceTrainer, PairedPreferenceConfig, self.paired, recompute, **more)

    @cached_property
    def trl(self) -> DPOTrainer:
        return self._make(DPOTrainer, DPOConfig, self.paired, recompute=False)

    @cached_property
    def trl_default(self) -> DPOTrainer:
        return self._make(DPOTrainer, DPOConfig, self.paired, recompute=True)

    @cached_property
    def padded(self) -> PairedPreferenceTrainer:
        return self._ours(packing=False)

    @cached_property
    def packed(self) -> PairedPreferenceTrainer:
        return self._ours()

    @cached_property
    def packed_checkpointing(self) -> PairedPreferenceTrainer:
        return self._ours(recompute=True)

    @cached_property
    def cached(self) -> PairedPreferenceTrainer:
        return self._ours(reference_cache=True)

    @cached_property
    def trl_kto(self) -> KTOTrainer:
        return self._make(KTOTrainer, KTOConfig, self.unpaired, recompute=False)

    @cached_property
    def trl_kto_default(self) -> KTOTrainer:
        return self._make(KTOTrainer, KTOConfig, self.unpaired, recompute=True)

    @cached_property
    def our_kto(self) -> UnpairedPreferenceTrainer:
        more = {"row_tokens": 4096, "reference_cache": False}
        return self._make(UnpairedPreferenceTrainer, UnpairedPreferenceConfig, self.unpaired, recompute=False, **more)


class Bench:
    """The steps of every seed.

    Args:
        trainers: The trainers.
        selections: Pairs of each seed. There are more than are used, as TRL drops pairs whose prompt is too long.
        pairs, rounds: Pairs of a step, and steps of a seed.
    """

    def __init__(self, trainers: Trainers, selections: dict[int, Dataset], pairs: int, rounds: int) -> None:
        self.trainers, self.selections, self.pairs, self.rounds = trainers, selections, pairs, rounds
        self._tokenised: dict[tuple[int, bool], list[dict]] = {}
        self._warm: set[str] = set()

    def examples(self, seed: int, is_paired: bool = True) -> list[dict]:
        """The tokenised examples of a seed: its pairs, or their completions with TRL's mismatched ones."""
        if (seed, is_paired) not in self._tokenised:
            trainer = self.trainers.packed if is_paired else self.trainers.trl_kto_default
            found = trainer._prepare_dataset(self.selections[seed], trainer.processing_class, trainer.args, "train")
            self._tokenised[seed, is_paired] = list(found)[: self.pairs * self.rounds * (1 if is_paired else 2)]
        return self._tokenised[seed, is_paired]

    def step(self, name: str, seed: int, number: int) -> Step:
        """A step of a variant, ready to be measured: its trainer is warm, and a cache holds the reference."""
        variant = VARIANTS[name]
        trainer, is_paired = getattr(self.trainers, variant.trainer), "kto" not in variant.trainer
        examples = self.examples(seed, is_paired)
        if variant.way == SORTED:
            examples = sorted(examples, key=length)
        if variant.trainer == "our_kto":
            examples = [{k: v for k, v in example.items() if not k.startswith("KL_")} for example in examples]
        chosen = split(examples, self.pairs * (1 if is_paired else 2))[number]
        if variant.trainer not in self._warm:
            self._warm.add(variant.trainer)
            shortest = sorted(chosen, key=length)[: 2 if is_paired else 8]
            (our_step(trainer, shortest) if variant.batch is None else trl_step(trainer, shortest, len(shortest)))()
        if variant.tries_losses:
            return self._try_losses(trainer, chosen, variant)
        if variant.trainer == "cached":
            for row in trainer.rows.cut(chosen):
                trainer.references.score(trainer.rows.collate(row))
        if variant.batch is None:
            return our_step(trainer, chosen, layers=variant.layers)
        return trl_step(trainer, chosen, variant.batch, variant.way, variant.layers)

    def _try_losses(self, trainer: Any, chosen: list[dict], variant: Variant) -> Step:
        def theirs() -> None:
            for loss in TRIED.values():
                trainer.loss_types = [loss]
                trl_step(trainer, chosen, variant.batch, variant.way)()
            trainer.loss_types = ["sigmoid"]

        def ours() -> None:
            os.environ["TRL_EXT_CACHE"] = tempfile.mkdtemp()
            trainer.references.cache = trainer.references.new_cache()
            for loss in TRIED:
                trainer.loss = trainer.row_objective.loss = losses.get(loss)
                our_step(trainer, chosen)()
            trainer.loss = trainer.row_objective.loss = losses.get("dpo")

        return ours if variant.batch is None else theirs

    def tokens(self, seed: int) -> dict[str, int]:
        """Tokens of one forward pass over the pairs of a seed: padded in TRL's micro-batches, and packed in ours."""
        every = self.examples(seed)
        self.trainers.packed.rows.prepare(every)
        return {
            **{f"TRL, {batch} pairs": padded_tokens(every, batch) for batch in (4, 8)},
            "ours": sum(self.trainers.packed.rows.size(step) for step in split(every, self.pairs)),
        }


def trl_step(trainer: Any, examples: list[dict], batch: int, way: str = NARROW, layers: int | None = None) -> Step:
    """TRL's step over `examples` in micro-batches of `batch`."""
    batches = [trainer.data_collator(examples[i : i + batch]) for i in range(0, len(examples), batch)]

    def run() -> None:
        trainer.current_gradient_accumulation_steps = len(batches)
        trainer.model.zero_grad()
        with first_layers(trainer, layers):
            for inputs in batches:
                trainer.training_step(trainer.model, dict(inputs))

    def run_narrow() -> None:
        with narrow_head():
            run()

    return run if way == AS_IS else run_narrow


def our_step(trainer: Any, examples: list[dict], layers: int | None = None) -> Step:
    """Our step over `examples`."""

    def run() -> None:
        with first_layers(trainer, layers):
            trainer.training_step(trainer.model, examples)

    return run


@contextmanager
def narrow_head() -> Iterator[None]:
    """Inside, TRL's LM head projects completion tokens only, as it does on a GPU."""
    before = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = lambda device: True
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = before


@contextmanager
def first_layers(trainer: Any, count: int | None) -> Iterator[None]:
    """Inside, the model runs only its first `count` layers; `None` for all."""
    config = trainer.model.config
    before = config.num_hidden_layers
    config.num_hidden_layers = count or before
    try:
        yield
    finally:
        config.num_hidden_layers = before


def length(example: dict) -> int:
    return sum(len(ids) for name, ids in example.items() if name.endswith("_ids") and not name.startswith("KL_"))


def split(examples: list[dict], size: int) -> list[list[dict]]:
    return [examples[i : i + size] for i in range(0, len(examples) - size + 1, size)]


def padded_tokens(examples: list[dict], batch: int) -> int:
    """Tokens that TRL computes in one forward pass over `examples`, padding included."""
    return sum(
        2 * len(b) * max(len(e["prompt_ids"]) + max(len(e["chosen_ids"]), len(e["rejected_ids"])) for e in b)
        for b in split(examples, batch)
    )
