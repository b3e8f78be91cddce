"""A micro-batch away from its rollout, and TRL's own loss of it."""

from collections import defaultdict
from types import SimpleNamespace

import torch

LENGTHS = (5, 3, 1, 4)
SIZE = 5


def micro_batch(seed=0, spread=0.4):
    """log π, log π_old, log ref, one advantage per completion on its tokens, mask, (4, 5) each, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.arange(SIZE) < torch.tensor(LENGTHS).unsqueeze(1)
    logps = -normal(4, SIZE).abs() - 0.5
    old_logps, ref_logps = logps + spread * normal(4, SIZE), logps + 0.5 * normal(4, SIZE)
    advantages = torch.tensor([1.2, -0.7, 0.4, -1.5], dtype=torch.float64).unsqueeze(1).expand(4, SIZE)
    return logps, old_logps, ref_logps, advantages, mask


def trl_grpo_loss(logps, old_logps, ref_logps, advantages, mask, **settings):
    """The loss of `trl.GRPOTrainer._compute_loss`, called on a stand-in whose model has these log-probabilities.

    Args:
        settings: `loss_type`, `beta`, `epsilon`, `epsilon_high`, `delta`, `importance_sampling_level`,
            `max_completion_length`.
    """
    from trl import GRPOTrainer

    default = {
        "loss_type": "grpo", "beta": 0.0, "epsilon": 0.2, "epsilon_high": 0.2, "delta": None, "importance_sampling_level": "token",
        "max_completion_length": 16,
    }  # fmt: skip
    settings = SimpleNamespace(**default | settings)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        accelerator=SimpleNamespace(
            num_processes=1, sync_gradients=True, reduce=lambda x, reduction: x, gather=lambda x: x
        ),
        args=SimpleNamespace(
            delta=settings.delta, use_bias_correction_kl=False, steps_per_generation=1, sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05, vespo_k_pos=2.0, vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
        ),
        model=SimpleNamespace(training=True), aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, use_vllm=False, current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
        epsilon_low=settings.epsilon, epsilon_high=settings.epsilon_high, beta=settings.beta, loss_type=settings.loss_type,
        importance_sampling_level=settings.importance_sampling_level,
        max_completion_length=settings.max_completion_length, get_gamma_weights=GRPOTrainer.get_gamma_weights,
    )  # fmt: skip
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask.to(logps.dtype),
        "advantages": advantages[:, 0], "old_per_token_logps": old_logps, "ref_per_token_logps": ref_logps,
        "num_items_in_batch": mask.sum().to(logps.dtype),
    }  # fmt: skip
    return GRPOTrainer._compute_loss(trainer, None, inputs), dict(trainer._metrics["train"])


def trl_rloo_loss(logps, old_logps, advantages, mask, epsilon=0.2, epsilon_high=0.2):
    """The loss of `trl.RLOOTrainer._compute_loss`, called in the same way."""
    from trl import RLOOTrainer

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros_like(logps), None),
        accelerator=SimpleNamespace(reduce=lambda x, reduction: x, gather=lambda x: x),
        model=SimpleNamespace(training=True), aux_loss_enabled=False, _metrics=defaultdict(lambda: defaultdict(list)),
        epsilon_low=epsilon, epsilon_high=epsilon_high,
    )  # fmt: skip
    ids = torch.zeros(mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": ids, "completion_mask": mask.to(logps.dtype),
        "advantages": advantages[:, 0], "old_logps": (old_logps * mask).sum(1),
    }  # fmt: skip
    return RLOOTrainer._compute_loss(trainer, None, inputs), dict(trainer._metrics["train"])
