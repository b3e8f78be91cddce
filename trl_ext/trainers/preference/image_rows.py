"""Collate pairs with images: packed if the model supports it, otherwise padded by TRL's collator."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from trl_ext.batching import images
from trl_ext.trainers.common.packing import PackingProof
from trl_ext.trainers.common.runtime import Runtime

PROBED = 2
"""Pairs on which packed and padded rows are compared."""
SEARCHED = 64
"""Rows among which pairs with images are looked for."""

Collator = Callable[[list[dict]], dict[str, Any]]


class ImageRows:
    """Decide how pairs with images are collated, and complete collated batches on the device.

    A micro-batch is one row, because images are collated in the workers of the dataloader.

    Args:
        runtime: The trainer's.
        proof: Decides whether rows are packed.
        collator: TRL's, of the constructor.
        is_paired: Whether an example has two completions.

    Attributes:
        is_packed: Whether rows are packed; `None` before the first dataloader.
    """

    def __init__(self, runtime: Runtime, proof: PackingProof, collator: Collator, *, is_paired: bool) -> None:
        self.runtime = runtime
        self.proof = proof
        self.given = collator
        self.is_paired = is_paired
        self.is_packed: bool | None = None

    def collator(self, collator: Collator, dataset: Iterable[dict]) -> Collator:
        """The collator of a dataloader.

        Args:
            collator: The trainer's. Another one than that of the constructor is used as it is.
            dataset: Its first rows are those on which packing is tested, once per trainer.
        """
        if self.is_packed is None:
            self.is_packed = self._decide(dataset)
        return PackedPairs(collator) if self.is_packed and collator is self.given else collator

    def completed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A collated batch on the device, with the positions that its model gives images in a packed row."""
        if "packed" not in batch or "positions" in batch:
            return batch
        batch = {**batch, "packed": batch["packed"].to(self.runtime.device)}
        positions = images.own_positions(self.runtime.base.base_model, batch)
        return batch if positions is None else {**batch, "positions": positions}

    def _decide(self, dataset: Iterable[dict]) -> bool:
        if not self.is_paired:
            if self.runtime.args.packing:
                self.runtime.say("rows: padded; packing is for pairs, where data has images")
            return False
        return self.proof.decide_images(lambda: self.given(self._probed(dataset)), self.completed)

    def _probed(self, dataset: Iterable[dict]) -> list[dict]:
        """The first pairs with images, or the first pair."""
        with_images = (row for row in islice(dataset, SEARCHED) if row.get("images") or row.get("image"))
        shown = list(islice(with_images, PROBED)) or list(islice(dataset, 1))
        return [dict(row) for row in (shown * PROBED)[:PROBED]]


class PackedPairs:
    """Pack what TRL's collator returns. Batches whose images cannot be told apart stay padded."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, examples: list[dict]) -> dict[str, Any]:
        batch = self.collator(examples)
        return images.pack_pairs(batch) or batch
