"""Compare the memory of a merged copy of the base with the memory that is free, by the formulas of the planner."""

from typing import Any, NamedTuple

import torch
from peft import PeftModel

from trl_ext.batching import attention
from trl_ext.planner import counting, memory
from trl_ext.planner.fitting import Overhead
from trl_ext.planner.memory import Row, Storage
from trl_ext.planner.shape import Shape
from trl_ext.support.errors import UserError
from trl_ext.trainers.common import activation_memory
from trl_ext.trainers.rollout.roles import CRITIC, POLICY


class Need(NamedTuple):
    """Bytes: of a merged copy, of what the run has yet to allocate beside it, and those that are free and usable."""

    copy: float
    run: float
    free: float

    @property
    def fits(self) -> bool:
        return self.copy + self.run <= self.free


def need(
    policy: PeftModel,
    args: Any,
    dtype: torch.dtype,
    *,
    completions: int,
    prompt_length: int,
    has_optimizer: bool = False,
) -> Need:
    """Memory of a rollout and an update with a merged copy, before the first rollout.

    Args:
        policy: The base with all adapters, loaded.
        args: The trainer's configuration.
        dtype: Of the copy.
        completions: That are sampled together.
        prompt_length: Tokens of the longest prompt.
        has_optimizer: Whether gradients and optimizer states exist already.

    Raises:
        UserError: The planner does not support the architecture.
    """
    base = policy.get_base_model()
    shape, storage = _shape(policy), _storage(policy, args)
    length = prompt_length + args.max_completion_length
    is_eager = attention.ordinary(base.config._attn_implementation) == "eager"
    row = Row(
        tokens=args.per_device_train_batch_size * length,
        completion_share=args.max_completion_length / length,
        keys_per_token=1.0,
        kernel=memory.EAGER if is_eager else memory.SDPA,
        width=length,
        activation=storage.weight,
        cached_tokens=completions * length * dtype.itemsize // 2,
        is_cache_static="static" in str(args.cache_implementation),
    )
    checkpointed = 0 if args.gradient_checkpointing is False else shape.layers
    _, parts = memory.activations(shape, row, storage, checkpointed)
    state = memory.training_state(shape, storage)
    pending = 0 if has_optimizer else state["gradients"] + state["optimizer"]
    run = pending + Overhead().allocator * sum(parts.values())
    free = activation_memory.USABLE * activation_memory.free(policy.device)
    return Need(memory.merged_copy(shape, storage, dtype.itemsize), run, free)


def _shape(policy: PeftModel) -> Shape:
    config = policy.peft_config[POLICY]
    targets = config.target_modules
    base = policy.get_base_model()
    return counting.count(
        {**base.config.to_dict(), "architectures": [type(base).__name__]},
        config.r,
        sorted(targets) if isinstance(targets, set) else targets,
        is_quantised=_bits(policy) < 16,
    )


def _storage(policy: PeftModel, args: Any) -> Storage:
    return Storage(
        bits=_bits(policy),
        weight=policy.dtype.itemsize,
        optimizer=str(getattr(args.optim, "value", args.optim)),
        trained_adapters=2 if CRITIC in policy.peft_config else 1,
    )


def _bits(policy: PeftModel) -> int:
    base = policy.get_base_model()
    if getattr(base, "is_loaded_in_4bit", False):
        return 4
    return 8 if getattr(base, "is_loaded_in_8bit", False) else 16


def why_unknown(error: UserError) -> str:
    """Reason why no memory plan can be made, a clause."""
    return f"the memory plan does not support this model ({str(error).rstrip('.')})"
