"""Make an exact, frozen copy of the adapter that training continues from: the reference policy of such a run.

TRL's constructors add a second adapter `ref` with the configuration of the first. They then copy the parameters whose name
contains `.default.`. That is not enough:

- Some initialisations of LoRA (PiSSA, OLoRA) move part of the base's weights into the new adapter. The base then loses these
  parts a second time, which changes the policy too.
- Some weights have other names (LoRA on embeddings, IA3), and some are no parameters (the indices of SHiRA). Their copies keep
  the random values of a new adapter.
- Dropout of the new adapter is on.

Here PEFT's own functions for saving and loading an adapter make the copy, so every type of adapter is copied as PEFT defines
it, and the configuration of the copy neither changes the base nor has dropout.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights

from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.reference.starting_point import adapter_has_no_effect
from trl_ext.support.sharded import whole

POLICY = "default"  # PEFT's and TRL's name for the adapter in training

FACTORS = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"}


class CopyError(ValueError):
    """The frozen copy of an adapter differs from the adapter."""


def inert(config: PeftConfig) -> PeftConfig:
    """A configuration of the same adapter, for weights that are set afterwards: without dropout, and without an effect on the base."""
    config = copy.deepcopy(config)
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True  # PiSSA, for example, would change the base a second time
    for name, value in vars(config).items():
        if name.endswith("dropout") and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


@contextmanager
def made_by_trl(model: Any) -> Iterator[None]:
    """Context of a TRL constructor: where it adds its `ref` adapter to a model, `add` does it instead."""
    if not isinstance(model, PeftModel):
        yield
        return
    original = model.add_adapter

    def add_adapter(adapter_name: str, *args: Any, **kwargs: Any) -> None:
        if adapter_name == FROZEN_COPY:
            add(model)
        else:
            original(adapter_name, *args, **kwargs)

    model.add_adapter = add_adapter
    try:
        yield
    finally:
        del model.add_adapter


def add(model: PeftModel) -> None:
    """Add the copy under the name `ref`, frozen.

    Raises:
        CopyError: The copy differs. It is then a type of adapter that PEFT does not save and load completely.
    """
    PeftModel.add_adapter(model, FROZEN_COPY, inert(model.peft_config[POLICY]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`|Could not find a config file")
        weights = get_peft_model_state_dict(model, adapter_name=POLICY, save_embedding_layers=False)
    set_peft_model_state_dict(model, {name: p.detach().clone() for name, p in weights.items()}, FROZEN_COPY)
    match(model)


def load(model: PeftModel, folder: str | Path) -> None:
    """Add the adapter of a folder under the name `ref`, frozen, to a model whose base is the one it was trained on.

    Unlike PEFT's `load_adapter`, this leaves the base as it is, also if the initialisation of the adapter changes it: then the
    policy's own adapter has changed it already.
    """
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = True
    PeftModel.add_adapter(model, FROZEN_COPY, inert(config))
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)), FROZEN_COPY)


def remove(model: Any) -> None:
    """Remove the copy, if there is one, so that the base without adapter is the reference."""
    if isinstance(model, PeftModel) and FROZEN_COPY in model.peft_config:
        model.delete_adapter(FROZEN_COPY)


@torch.no_grad()
def match(model: PeftModel) -> None:
    """Give the copy the dtypes of the adapter, so that both compute the same, and check that all its values are equal.

    Raises:
        CopyError: They are not.
    """
    for name, ours, theirs in _twins(model):
        theirs.data = theirs.data.to(ours.dtype)
        if ours.shape != theirs.shape or not torch.equal(ours, theirs.to(ours.device)):
            raise CopyError(
                f"The adapter that training continues from cannot be copied: {name} differs in its frozen copy, which would "
                "be a wrong reference. Merge the adapter into its base, and train a new one."
            )


def policy_is_reference(model: PeftModel) -> bool:
    """Whether policy and reference are equal: a new adapter has no effect, or one equals its frozen copy of any rank.

    Only then is the loss of the first step known in advance. It is not with every initialisation.
    """
    if FROZEN_COPY in model.peft_config:
        return all(_is_padded(whole(theirs), whole(ours)) for _, ours, theirs in list(_twins(model)))
    products = _low_rank_products(model)
    if products:  # one factor is zero at first: usually B, with MiCA A
        return all(any(not whole(factor).any() for factor in factors) for factors in products)
    return adapter_has_no_effect(model)


def _low_rank_products(model: PeftModel) -> list[list[torch.Tensor]]:
    """The two factors of each LoRA in each module; empty for other types of adapters."""
    products: dict[tuple[str, ...], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        factor = next((i for i, part in enumerate(parts) if part in FACTORS), None)
        if factor is not None:
            module, adapter = ".".join(parts[:factor]), parts[factor + 1]
            products.setdefault((module, adapter), []).append(parameter)
    return list(products.values())


def _twins(model: PeftModel) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, value and copy of each parameter of the adapter."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        twin = ".".join(FROZEN_COPY if part == POLICY else part for part in name.split("."))
        if twin != name and twin in parameters:
            yield name, parameter, parameters[twin]


def _is_padded(larger: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `larger` equals `weight`, padded with zeros to a larger shape."""
    inside = larger[tuple(map(slice, weight.shape))]
    is_same = inside.dtype == weight.dtype and torch.equal(inside, weight)
    return is_same and bool(larger.count_nonzero() == weight.count_nonzero())
