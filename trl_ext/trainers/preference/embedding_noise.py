"""Train with NEFTune's noise scaled by each sequence's own length (`trl_ext.batching.noise`), not with transformers' noise."""

import contextlib
from collections.abc import Iterator
from typing import Any

from trl_ext.batching import noise
from trl_ext.trainers.common.temporarily import temporarily


@contextlib.contextmanager
def in_training(trainer: Any) -> Iterator[None]:
    """Context in which a trainer trains. transformers adds its own noise if the attribute `neftune_noise_alpha` is set."""
    alpha, embeddings = trainer.neftune_noise_alpha, trainer.runtime.base.get_input_embeddings()
    with temporarily(trainer, neftune_noise_alpha=None), noise.noisy(embeddings, alpha):
        yield
