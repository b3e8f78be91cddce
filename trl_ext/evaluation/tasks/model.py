"""Let the harness ask a model that is in memory already."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from lm_eval.models.huggingface import HFLM

from trl_ext.support.errors import UserError

Watched = Callable[[Iterable, int, str], Iterable]
"""Shows how far a loop over so many items is, with a title."""

Result = TypeVar("Result")


class LoadedModel(HFLM):
    """The harness' own model class, around a model in memory.

    1. The model is not tied, moved or put into another mode.
    2. Batches are halved where memory runs out.
    3. The progress of requests is shown by `watched`, under `title`.
    4. Requests that are longer than the model's context, whose beginning the harness cuts off, are counted in `cut`.

    Overrides `loglikelihood`, `loglikelihood_rolling`, `generate_until`, `_loglikelihood_tokens` and `tok_batch_encode`.
    """

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, watched: Watched) -> None:
        super().__init__(pretrained=_Callable(model), backend="causal", tokenizer=tokenizer, batch_size=batch_size)
        self.watched, self.title, self.cut = watched, "requests", 0

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._watching(super().loglikelihood, requests)

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        return self._watching(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        return self._watching(
            lambda *args, **kwargs: self._fitting(super(LoadedModel, self).generate_until, *args, **kwargs), requests
        )

    def _loglikelihood_tokens(
        self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list:
        self.cut += sum(
            len(context) + len(continuation) > self.max_length + 1 for _, context, continuation in requests
        )
        return self._fitting(super()._loglikelihood_tokens, requests, disable_tqdm=True)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Any, Any]:
        ids, mask = super().tok_batch_encode(strings, padding_side=padding_side, truncation=truncation)
        if left_truncate_len is None or ids.shape[1] <= left_truncate_len:
            return ids, mask
        self.cut += int((mask.sum(1) > left_truncate_len).sum())
        return ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]

    def _watching(self, answer: Callable[..., list], requests: list) -> list:
        with _Hook.of(self.watched, len(requests), self.title) as self.cache_hook:
            return answer(requests, disable_tqdm=True)

    def _fitting(self, compute: Callable[..., Result], requests: list, **options: Any) -> Result:
        """The result, with a batch size that fits into memory; the harness takes the longest requests first."""
        while (result := self._attempt(compute, requests, **options)) is None:
            self.batch_size_per_gpu //= 2
            gc.collect()
            clear_device_cache()
        return result

    def _attempt(self, compute: Callable[..., Result], requests: list, **options: Any) -> Result | None:
        """The result; `None` if memory ran out. Returning releases the traceback and its tensors."""
        try:
            return compute(requests, **options)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if self.batch_size_per_gpu == 1:
                raise UserError(
                    f"Memory ran out for one request of {self.title}. Close other programs that use the card, or leave the task out."
                ) from error
            return None


class _Callable:
    """The model as the harness calls it. It ties the weights of a module again, which an adapter may have untied."""

    def __init__(self, model: Any) -> None:
        self.device, self.config, self.generate, self._model = model.device, model.config, model.generate, model

    def __call__(self, input_ids: Any) -> Any:
        return self._model(input_ids=input_ids)


class _Hook:
    """Called by the harness for each request that is done; its own hook writes a cache."""

    def __init__(self, ticks: Iterator) -> None:
        self._ticks = ticks

    @classmethod
    @contextlib.contextmanager
    def of(cls, watched: Watched, total: int, title: str) -> Iterator[_Hook]:
        ticks = iter(watched(range(total), total, title))
        try:
            yield cls(ticks)
        finally:
            for _ in ticks:
                pass

    def add_partial(self, kind: str, request: Any, result: Any) -> None:
        next(self._ticks, None)
