"""Compute means whose numerators and denominators are summed over rows and processes before they are divided."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator


@dataclass
class _Sum:
    """A sum of numbers, and of tensors without dimensions, float64, that stay on their device."""

    number: float = 0.0
    tensor: torch.Tensor | None = None

    def add(self, value: "torch.Tensor | float | _Sum") -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().double()
            self.tensor = value if self.tensor is None else self.tensor + value
        elif isinstance(value, _Sum):
            self.number += value.number
            if value.tensor is not None:
                self.add(value.tensor)
        else:
            self.number += value


class MeanMetrics:
    """Running means of a step, reduced across processes once, however many rows each process ran.

    Gathering per row would deadlock as soon as two processes cut their examples into different numbers of rows.
    Every process must have added the same names in the same order before `reduce`.

    Tensors stay on their device until a value is read. Then all are read in one transfer, because each makes the CPU wait.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[_Sum, _Sum]] = {}  # of values, and their number
        self._known: dict[str, tuple[float, float]] | None = None  # those that were read, until more is added

    def add(self, name: str, total: "torch.Tensor | float | _Sum", count: "torch.Tensor | float | _Sum") -> None:
        """Add `total`, the sum of `count` values, to the mean called `name`."""
        totals, counts = self._sums.setdefault(name, (_Sum(), _Sum()))
        totals.add(total)
        counts.add(count)
        self._known = None

    def add_all(self, other: "MeanMetrics") -> None:
        """Add the sums and counts of `other`."""
        for name, (total, count) in other._sums.items():
            self.add(name, total, count)

    def reduce(self, accelerator: Accelerator) -> "MeanMetrics":
        """The same sums over all processes."""
        if accelerator.num_processes > 1 and self._sums:
            everywhere = accelerator.reduce(self._stacked().to(accelerator.device), reduction="sum")
            named = zip(self._sums, everywhere, strict=True)
            self._sums = {name: (_Sum(tensor=total), _Sum(tensor=count)) for name, (total, count) in named}
            self._known = None
        return self

    def means(self) -> dict[str, float]:
        """Mean per name; names without a single value are left out rather than reported as zero."""
        return {name: total / count for name, (total, count) in self._read().items() if count}

    def total(self, name: str) -> float:
        """The sum of the values added to `name`, not their mean."""
        return self._read()[name][0]

    def count(self, name: str) -> int:
        """The number of values added to `name`; 0 if there were none."""
        return round(self._read()[name][1]) if name in self._sums else 0

    def clear(self) -> None:
        """Forget the values but not the names."""
        self._sums, self._known = {name: (_Sum(), _Sum()) for name in self._sums}, None

    def _read(self) -> dict[str, tuple[float, float]]:
        """Sums and counts of all names."""
        if self._known is None:
            parts = [part for pair in self._sums.values() for part in pair]
            tensors = [part.tensor.to(self._device) for part in parts if part.tensor is not None]
            read = iter(torch.stack(tensors).tolist() if tensors else ())
            numbers = [part.number + (0.0 if part.tensor is None else next(read)) for part in parts]
            self._known = dict(zip(self._sums, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
        return self._known

    def _stacked(self) -> torch.Tensor:
        """Sums and counts of all names, (names, 2), on one device."""
        parts = [part for pair in self._sums.values() for part in pair]
        numbers = torch.tensor([part.number for part in parts], dtype=torch.float64).to(self._device)
        zero = torch.zeros((), dtype=torch.float64, device=self._device)
        tensors = [zero if part.tensor is None else part.tensor.to(self._device) for part in parts]
        return (numbers + torch.stack(tensors)).view(-1, 2)

    @property
    def _device(self) -> torch.device:
        """The GPU if any tensor lies there. Some may have been added on the CPU."""
        tensors = (part.tensor for pair in self._sums.values() for part in pair if part.tensor is not None)
        return next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), torch.device("cpu"))
