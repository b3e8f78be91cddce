"""Make the mismatched pairs of the KTO baseline before training, where no reference is kept to score those of a step.

With `precompute_ref_log_probs` and without an adapter the reference is the untrained model. It scores the dataset once, and
then becomes the policy. TRL's own columns hold the pairs: `KL_completion_ids` and `ref_KL_logps`.
"""

from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher

from trl_ext.batching.mismatched import partners


def add_pairs(dataset: Dataset) -> Dataset:
    """Add `KL_completion_ids`: the completion of an example with another prompt, the same in every epoch.

    It is drawn from the whole dataset and does not depend on the order of the examples. It is empty for an example that
    has no partner, as in a dataset with one prompt.
    """
    found = partners(dataset.select_columns(["prompt_ids", "completion_ids"]))
    alone = {i for i, partner in enumerate(found) if partner is None}
    pairs = dataset.select([i if partner is None else partner for i, partner in enumerate(found)])
    pairs = pairs.select_columns("completion_ids").rename_column("completion_ids", "KL_completion_ids")
    if alone:

        def emptied(row: dict, i: int) -> dict:
            return {"KL_completion_ids": []} if i in alone else row

        pairs = pairs.map(emptied, with_indices=True, features=pairs.features)
    return concatenate_datasets([dataset, pairs], axis=1)


def keyed(dataset: Dataset, *settings: object) -> Dataset:
    """A view with a fingerprint that depends on settings.

    TRL names its file of reference values by the fingerprint, which does not depend on the truncation by its collator
    (`tests/trainers/preference/test_evaluation.py`).
    """
    view = dataset.select(range(len(dataset)))
    view._fingerprint = Hasher.hash((dataset._fingerprint, settings))
    return view
