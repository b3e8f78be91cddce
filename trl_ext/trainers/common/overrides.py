"""Refuse subclasses with methods that training would never call, because a trainer here runs its own step."""

from typing import Any

from trl_ext.support.messages import joined
from trl_ext.trainers.common.example_losses import HOOK

LOSS = f"Override `{HOOK}(self, losses, tensors)` instead, which returns one loss per example"
LOGPS = f"`{HOOK}(self, losses, tensors)` is given the log-probabilities of policy and reference"
TOKENS = "Tokenise the data before, into `prompt_ids` and the ids of the completions, or override `_prepare_dataset`"
UPDATE = "Assign a function to `trainer.update.policy_loss` or `trainer.update.critic_loss` instead"

OF_LOSSES = {
    **dict.fromkeys(("compute_loss", "_compute_loss"), LOSS),
    "_prepare_context_parallel_inputs": "A sequence is not split over devices here",
}
"""Methods of TRL's and transformers' trainers that are not called where a loss of `trl_ext.losses` is trained, each with what to
do instead."""

OF_ROWS = {
    **OF_LOSSES,
    "_get_num_items_in_batch": "Every example of a step has the same weight",
    "_compute_kl_logps": f"The baseline of KTO is estimated from the whole step. {LOGPS}, and the baseline as `z_ref`",
}
"""The same where a step is cut into rows."""

OF_BATCHES = ("compute_loss", "_compute_loss", "training_step", "prediction_step")
"""Methods that are given collated batches, where data has images."""

OF_PPO = {**OF_LOSSES, **dict.fromkeys(("compute_loss", "_compute_loss", HOOK), UPDATE)}
"""The same for PPO."""

OF_OLDER_TRL = {
    **dict.fromkeys(("dpo_loss", "cpo_loss", "orpo_loss", "kto_loss", "bco_loss", "odds_ratio_loss"), LOSS),
    **dict.fromkeys(("get_batch_loss_metrics", "_compute_loss_liger"), LOSS),
    **dict.fromkeys(("concatenated_forward", "concatenated_inputs", "get_batch_logps"), LOGPS),
    **dict.fromkeys(("compute_reference_log_probs", "null_ref_context"), LOGPS),
    **dict.fromkeys(("tokenize_row", "process_row", "build_tokenized_answer"), TOKENS),
}
"""Methods of preference trainers of older TRL, which TRL 1 does not call either."""

ASSIGNED = {"compute_loss_func": LOSS, "data_collator": "Give it to the constructor"}
"""Attributes that are not read if they are assigned to a trainer."""


def defined_by_user(cls: type, name: str) -> bool:
    """Whether a subclass of a trainer here defines a method, or a mixin before it does."""
    for owner in cls.__mro__:
        if owner.__module__.startswith("trl_ext."):
            return False
        if name in vars(owner):
            return True
    return False


def refuse(cls: type, bypassed: dict[str, str]) -> None:
    """Refuse a class of trainers whose methods would have no effect.

    Args:
        cls: The class that is constructed.
        bypassed: Methods that are not called, each with what to do instead.

    Raises:
        ValueError: It names all of them.
    """
    found = [name for name in bypassed if defined_by_user(cls, name)]
    _raise(f"`{cls.__name__}` overrides", found, bypassed)


def refuse_assigned(trainer: Any, bypassed: dict[str, str], collator: Any = None) -> None:
    """The same for methods, `compute_loss_func` and a data collator that were assigned to a trainer.

    Args:
        trainer: Before it trains.
        bypassed: See `refuse`.
        collator: The data collator that is read, if only the one of the constructor is.
    """
    found = [name for name in bypassed if name in vars(trainer)]
    found += ["compute_loss_func"] if trainer.compute_loss_func is not None else []
    found += ["data_collator"] if collator is not None and trainer.data_collator is not collator else []
    _raise(f"This `{type(trainer).__name__}` was assigned", found, ASSIGNED | bypassed)


def _raise(beginning: str, names: list[str], remedies: dict[str, str]) -> None:
    """ValueError if there are names, with one sentence for all names of a remedy."""
    of_remedy: dict[str, list[str]] = {}
    for name in names:
        of_remedy.setdefault(remedies[name], []).append(f"`{name}`")
    problems = [
        f"{beginning} {joined(found)}, and training would not use {'it' if len(found) == 1 else 'them'}: this trainer runs its "
        f"own step. {remedy}."
        for remedy, found in of_remedy.items()
    ]
    if problems:
        raise ValueError(" ".join(problems))
