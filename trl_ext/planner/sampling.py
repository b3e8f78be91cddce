"""Count what samples completions beside the training step: a merged copy of the base, or vLLM on the same card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trl_ext.planner import memory
from trl_ext.planner.memory import GIB, Storage
from trl_ext.planner.shape import Shape

AUTO, ADAPTER, MERGED, VLLM = "auto", "adapter", "merged", "vllm"
COPY, ENGINE = "merged copy for sampling", "vLLM"


@dataclass(frozen=True)
class Sampling:
    """What completions are sampled from.

    Attributes:
        source: `adapter`, `merged`, `auto` of these two, or `vllm` on the card that trains.
        weight: Bytes of a weight of a merged copy.
        utilization: Share of the card that vLLM takes (`vllm_gpu_memory_utilization`).
        sleeps: Whether vLLM frees its memory between rollouts (`vllm_enable_sleep_mode`).
        engine: Bytes that vLLM takes; known once a card is (`on_card`).
    """

    source: str = ADAPTER
    weight: int = 2
    utilization: float = 0.0
    sleeps: bool = False
    engine: float = 0.0

    def on_card(self, gib: float, shape: Shape) -> Sampling:
        """vLLM on a card: its share, and at least its 16-bit weights."""
        if self.source != VLLM:
            return self
        return replace(self, engine=max(self.utilization * gib * GIB, _weights(shape)))

    def static(self, shape: Shape, storage: Storage) -> dict[str, float]:
        """Bytes during the whole run, by kind."""
        if self.source == MERGED:
            return {f"{COPY} ({8 * self.weight}-bit)": memory.merged_copy(shape, storage, self.weight)}
        return {ENGINE: self.engine} if self.engine and not self.sleeps else {}

    @property
    def during(self) -> float:
        """Bytes of vLLM only while completions are sampled."""
        return self.engine if self.sleeps else 0.0

    def notes(self, shape: Shape, storage: Storage, was_auto: bool, gib: float) -> list[str]:
        """Sentences for the plan.

        Args:
            was_auto: Whether the plan chose the source.
            gib: Memory of the card, GiB.
        """
        found = []
        if was_auto:
            copy = f"a merged copy of the base in {8 * self.weight} bits"
            size = f"{memory.merged_copy(shape, storage, self.weight) / GIB:.1f} GiB"
            if self.source == MERGED:
                found.append(
                    f"`sampling_weights: auto` will choose merged: {copy} takes {size} and fits, and sampling from it is faster."
                )
            else:
                found.append(f"`sampling_weights: auto` will choose adapter: {copy} takes {size} and does not fit.")
        if self.source == VLLM:
            sleep = "only while completions are sampled" if self.sleeps else "all the time"
            found.append(
                f"vLLM takes {self.engine / GIB:.1f} GiB of the card {sleep}, for its 16-bit weights "
                f"({_weights(shape) / GIB:.1f} GiB) and its KV cache. This was not measured."
            )
            if _weights(shape) > self.utilization * gib * GIB:
                found.append(
                    f"vLLM will not start: its weights take more than {self.utilization:g} of the card "
                    f"(`vllm_gpu_memory_utilization`). Set it to {_enough(shape, gib):.2f} or more."
                )
        return found


def read(recipe: Any) -> Sampling:
    """What a `trl_ext.recipe.Recipe` samples from. vLLM on a server takes nothing of this card."""
    if not recipe.method.samples_completions:
        return Sampling()
    effective = recipe.effective
    if effective("use_vllm"):
        if effective("vllm_mode") != "colocate":
            return Sampling()
        return Sampling(
            VLLM,
            utilization=effective("vllm_gpu_memory_utilization"),
            sleeps=bool(effective("vllm_enable_sleep_mode")),
        )
    is_plain = not any(recipe.get(key) for key in ("use_dora", "lora_target_parameters", "lora_modules_to_save"))
    source = effective("sampling_weights") if is_plain and effective("disable_dropout") else ADAPTER
    return Sampling(source, weight=4 if recipe.get("use_cpu") else 2)


def _weights(shape: Shape) -> float:
    return 2 * shape.parameters


def _enough(shape: Shape, gib: float) -> float:
    """The share of a card that holds the weights and a tenth more for the KV cache."""
    return min(1.1 * _weights(shape) / (gib * GIB) + 0.005, 1.0)
