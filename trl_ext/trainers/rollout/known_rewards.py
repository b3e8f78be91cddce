"""Reward functions that TRL's scripts make with fixed settings and name in `reward_funcs`."""

from trl.rewards import get_soft_overlong_punishment

soft_overlong_punishment = get_soft_overlong_punishment(max_completion_len=1280, soft_punish_cache=256)
"""Minus up to 1 for completions of more than 1,024 tokens, as `trl grpo --reward_funcs get_soft_overlong_punishment`."""
