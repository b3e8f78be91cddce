"""Hold a plain copy of the base with the policy's adapter merged in, from which completions are sampled.

A 4-bit base with a LoRA multiplies every layer's input by three matrices and dequantises one of them, for every token that
is sampled. The copy multiplies by one 16-bit matrix. It is written from the base's own weights, matrix by matrix, and the
base is not changed. Weights that are neither quantised nor adapted are those of the base, not copies; on a CPU except for the head.
"""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from trl_ext.batching import attention
from trl_ext.reference import modules
from trl_ext.trainers.rollout import vllm_weights
from trl_ext.trainers.rollout.huge_pages import HugePages, padded
from trl_ext.trainers.rollout.roles import POLICY

OTHER_PARTS = {
    "use_dora": "DoRA",
    "target_parameters": "`target_parameters`",
    "modules_to_save": "modules that are trained whole (`modules_to_save`)",
    "trainable_token_indices": "trained tokens",
    "lora_bias": "a bias in its LoRA",
    "use_qalora": "QALoRA",
}
"""Settings of a LoRA with which it is more than a product that is added to linear layers."""


class CannotMergeError(Exception):
    """The policy cannot be written as a plain copy of the base; the text is the reason, a clause."""


def why_not(config: PeftConfig) -> str | None:
    """Reason why an adapter cannot be merged into a plain copy, a clause; `None` if it can."""
    if not isinstance(config, LoraConfig):
        return f"the adapter is of type {config.peft_type.value}, and only LoRA is merged"
    parts = [text for name, text in OTHER_PARTS.items() if getattr(config, name, None)]
    return f"the adapter has {parts[0]}, and only plain LoRA is merged" if parts else None


def why_not_model(policy: PeftModel) -> str | None:
    """As `why_not`, for the adapter on its base."""
    if (reason := why_not(policy.peft_config[POLICY])) is not None:
        return reason
    base = policy.get_base_model()
    if any(
        isinstance(module, BaseTunerLayer) for module in (base.get_input_embeddings(), base.get_output_embeddings())
    ):
        return "the adapter is on the embeddings or on the head, and only linear layers between them are merged"
    layers = [module for module in base.modules() if isinstance(module, LoraLayer)]
    if any(POLICY in layer.lora_variant for layer in layers):
        return "the adapter is a variant of LoRA, and only plain LoRA is merged"
    if len({parameter.device for parameter in base.parameters()}) > 1:
        return "the base is spread over several devices"
    if modules.has_dropout(policy):
        return "dropout is on (`disable_dropout: false`), which merged weights do not have"
    return None


def dtype_of(policy: PeftModel) -> torch.dtype:
    """The dtype of a copy: float32 on a CPU, else the 16-bit dtype of the base or the device's."""
    if policy.device.type == "cpu":
        return torch.float32
    if policy.dtype in (torch.bfloat16, torch.float16):
        return policy.dtype
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


class MergedCopy:
    """A copy of the base of `policy` with its adapter `default` merged in; other adapters are not.

    Args:
        policy: A base with adapters.
        dtype: Of the copy.

    Attributes:
        model: The copy, in evaluation mode and without gradients.
        bytes: Memory that the copy takes beside the base.

    Raises:
        CannotMergeError: The copy would not have all weights of the base.
    """

    def __init__(self, policy: PeftModel, dtype: torch.dtype) -> None:
        self._base = policy.get_base_model()
        self._dtype = dtype
        self.model = _without_weights(self._base, dtype)
        self.bytes = 0
        self._merged: list[
            tuple[nn.Parameter, str]
        ] = []  # parameters with other values than those of the base, and their names there
        lay_out = _layout(self.model, self._base, dtype)
        head = _own_head(self._base, dtype)
        for plain, name in vllm_weights.plain_names(self._base):
            weight = vllm_weights.weight(self._base, name, dtype)
            given = self._base.get_parameter(name)
            is_merged = weight.data_ptr() != given.data_ptr()
            is_copy = is_merged or given is head
            parameter = nn.Parameter(lay_out(weight) if is_copy else weight, requires_grad=False)
            _put(self.model, plain, parameter)
            if is_copy:
                self.bytes += parameter.numel() * parameter.element_size()
            if is_merged:
                self._merged.append((parameter, name))
        if any(parameter.is_meta for parameter in _all_parameters(self.model)):
            self.model.tie_weights()
        self._copy_buffers()
        missing = [name for name, tensor in _named_tensors(self.model) if tensor.is_meta]
        if missing:
            raise CannotMergeError(f"the base has no weights for {missing[0]} of the plain model")
        self.model.eval()
        self._adopt_generation_config()

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the policy's current weights into the copy, in place."""
        for parameter, name in self._merged:
            weight = vllm_weights.weight(self._base, name, self._dtype)
            # torch transposes fast only into contiguous memory.
            _contiguous(parameter).copy_(weight if parameter.is_contiguous() else weight.t())
        self._adopt_generation_config()

    def _adopt_generation_config(self) -> None:
        self.model.generation_config = copy.deepcopy(self._base.generation_config)

    def _copy_buffers(self) -> None:
        """Rotary frequencies and the like, which transformers computes at construction and no checkpoint has."""
        source = {name.replace(".base_layer", ""): buffer for name, buffer in self._base.named_buffers()}
        for name, buffer in list(self.model.named_buffers()):
            if name not in source:
                raise CannotMergeError(f"the base has no buffer {name}")
            path, _, leaf = name.rpartition(".")
            self.model.get_submodule(path)._buffers[leaf] = source[name].detach().to(buffer.dtype).clone()


def _without_weights(base: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A model of the class of `base`, unquantised, on the meta device."""
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    usual = attention.ordinary(config._attn_implementation)  # the base may have that of packed rows
    with torch.device("meta"):
        return type(base)._from_config(config, dtype=dtype, attn_implementation=usual)


def _layout(model: nn.Module, base: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """How weights are kept for the fastest product with the few rows of a step of sampling: on a CPU, in huge pages and with contiguous
    columns. GPUs do not care."""
    if base.device.type != "cpu":
        return lambda weight: weight
    memory = HugePages(sum(padded(weight.numel() * dtype.itemsize) for weight in _all_parameters(model)))

    def laid_out(weight: Tensor) -> Tensor:
        columns = weight.t() if weight.dim() == 2 else weight
        kept = memory.empty(columns.shape, weight.dtype).copy_(columns)
        return kept.t() if weight.dim() == 2 else kept

    return laid_out


def _contiguous(parameter: nn.Parameter) -> Tensor:
    return parameter if parameter.is_contiguous() else parameter.t()


def _own_head(base: nn.Module, dtype: torch.dtype) -> nn.Parameter | None:
    """The head's weight where the copy has its own for the layout: in float32 on a CPU, unless it is also the embedding."""
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if head is None or head.weight is embedding.weight or head.weight.device.type != "cpu" or dtype != torch.float32:
        return None
    return head.weight


def _put(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
        before = module.get_parameter(leaf)
    except AttributeError as error:
        raise CannotMergeError(f"the plain model has no weight {name}") from error
    if before.shape != parameter.shape:
        raise CannotMergeError(f"the base stores {name} in another shape than the plain model")
    setattr(module, leaf, parameter)


def _all_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers, and other tensors that modules hold."""
    held: list[tuple[str, Any]] = [
        (f"{path}.{name}", value) for path, module in model.named_modules() for name, value in vars(module).items()
    ]
    tensors = [(name, value) for name, value in held if isinstance(value, Tensor)]
    return [*chain(model.named_parameters(remove_duplicate=False), model.named_buffers()), *tensors]
