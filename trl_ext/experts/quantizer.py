"""Quantise experts to 4 bits while a model is loaded: each weight as soon as it is read, before the next one is.

transformers' quantiser for bitsandbytes reads the linear layers of a model. This one also reads experts, in the same loop.
"""

from typing import Any

import torch
from bitsandbytes.functional import quantize_4bit
from torch import nn
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from trl_ext.experts import adapter, forward, storage
from trl_ext.experts.storage import Packed

METHOD = "bitsandbytes_4bit"
"""Name of the quantiser in transformers' table."""


class Quantise(Bnb4bitQuantize):
    """Quantises the weights of experts; those of linear layers are left to transformers."""

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The parameters by name; `input_dict` has 16-bit tensors, or lists of one."""
        of_experts = [name for name in input_dict if name in self.hf_quantizer.experts]
        found = {name: self._packed(input_dict.pop(name)) for name in of_experts}
        return found | (super().convert(input_dict, **kwargs) if input_dict else {})

    def _packed(self, given: torch.Tensor | list[torch.Tensor]) -> nn.Parameter:
        config = self.hf_quantizer.quantization_config
        data, state = quantize_4bit(
            given[0] if isinstance(given, list) else given,
            compress_statistics=config.bnb_4bit_use_double_quant,
            quant_type=config.bnb_4bit_quant_type,
            quant_storage=config.bnb_4bit_quant_storage,
        )
        state.dtype = (
            config.bnb_4bit_compute_dtype
        )  # in which the weight is multiplied, as that of a 4-bit linear layer
        parameter = nn.Parameter(data, requires_grad=False)
        parameter.quant_state = state
        return parameter


class ExpertsQuantizer(Bnb4BitHfQuantizer):
    """transformers' quantiser, which also reads experts. Routers stay in 16 bits.

    A checkpoint that is already quantised is read as transformers reads it. Experts that FSDP will shard have to stay in 16 bits
    (`install`): the scales of a parametrised weight cannot be sharded.

    Attributes:
        experts: Names of the weights of experts, in the order in which their modules define them. PEFT nests the LoRAs on the
            weights of a module in that order.
    """

    experts: tuple[str, ...] = ()

    def get_modules_to_not_convert(self, model: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Modules that stay in 16 bits."""
        kept = Bnb4BitHfQuantizer.get_modules_to_not_convert(model, *args, **kwargs)
        return [*kept, *storage.routers(model)] if not self.pre_quantized else kept

    def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
        """Whether a parameter is stored in 4 bits."""
        return param_name in self.experts or super().param_needs_quantization(model, param_name, **kwargs)

    def get_quantize_ops(self) -> Quantise:
        """The operation that quantises a parameter."""
        return Quantise(self)

    def _process_model_before_weight_loading(self, model: Any, device_map: Any, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, device_map, **kwargs)
        self.experts = () if self.pre_quantized else tuple(storage.weights(model))

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for name in self.experts:
            path, _, leaf = name.rpartition(".")
            module = model.get_submodule(path)
            parameter = module.get_parameter(leaf)
            storage.store(module, leaf, Packed(parameter.data, parameter.quant_state))
        if self.experts:
            forward.use(model)
            adapter.install()
        return super()._process_model_after_weight_loading(model, **kwargs)


def install(*, is_sharded: bool = False) -> None:
    """Let transformers load 4-bit models by this quantiser from now on; those that FSDP will shard by its own one."""
    AUTO_QUANTIZER_MAPPING[METHOD] = Bnb4BitHfQuantizer if is_sharded else ExpertsQuantizer
