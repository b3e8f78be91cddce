"""Compute means whose numerators and denominators are summed over rows and processes before they are divided."""

import torch
from accelerate import Accelerator


class MeanMetrics:
    """Running means of a step, reduced across processes once, however many rows each process ran.

    Gathering per row would deadlock as soon as two processes cut their examples into different numbers of rows.
    Every process must have added the same names in the same order before `reduce`.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, total: torch.Tensor, count: torch.Tensor | int) -> None:
        """Add `total`, the sum of `count` values, to the mean called `name`."""
        total = torch.as_tensor(total).detach().double()
        pair = torch.stack((total, torch.as_tensor(count, device=total.device).double()))
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def add_all(self, other: "MeanMetrics") -> None:
        """Add the sums and counts of `other`."""
        for name, (total, count) in other._sums.items():
            self.add(name, total, count)

    def reduce(self, accelerator: Accelerator) -> "MeanMetrics":
        """The same sums over all processes."""
        if accelerator.num_processes > 1 and self._sums:
            stacked = accelerator.reduce(self._stacked().to(accelerator.device), reduction="sum")
            self._sums = dict(zip(self._sums, stacked, strict=True))
        return self

    def means(self) -> dict[str, float]:
        """Mean per name; names without a single value are left out rather than reported as zero."""
        if not self._sums:
            return {}
        rows = self._stacked().tolist()
        return {name: total / count for name, (total, count) in zip(self._sums, rows, strict=True) if count}

    def total(self, name: str) -> float:
        """The sum of the values added to `name`, not their mean."""
        return self._sums[name][0].item()

    def count(self, name: str) -> int:
        """The number of values added to `name`; 0 if there were none."""
        return round(self._sums[name][1].item()) if name in self._sums else 0

    def clear(self) -> None:
        """Forget the values but not the names."""
        self._sums = {name: torch.zeros_like(pair) for name, pair in self._sums.items()}

    def _stacked(self) -> torch.Tensor:
        """Sums and counts of all names, (names, 2); plain numbers were added on the CPU, and the others lie on a GPU."""
        pairs = list(self._sums.values())
        device = next((pair.device for pair in pairs if pair.device.type != "cpu"), torch.device("cpu"))
        return torch.stack([pair.to(device) for pair in pairs])
