"""The trainer itself, from sampling to the optimizer, on a language whose optimum is known in closed form."""

import pytest

from tests.trainers.ppo import language
from trl_ext import PPOConfig, PPOTrainer

KL_COEF = 0.7


def distance_to_the_optimum(
    tmp_path, *, steps: int, learning_rate: float, batch: int = 256, **kl: str
) -> tuple[float, float]:
    """Total variation from π* ∝ π_ref·exp(r/β) of the reference and of the trained policy.

    Advantages are not whitened, γ = λ = 1, the learning rate decays to zero.
    """
    reference, worth = language.log_probabilities(language.model()), language.rewards()
    optimum = language.optimum(reference, worth, KL_COEF)
    assert optimum.max() < 0.4, "a peaked optimum is approached by a wrong KL too"
    args = PPOConfig(
        **language.SETTINGS,
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        max_steps=steps,
        learning_rate=learning_rate,
        critic_learning_rate=0.02,
        kl_coef=KL_COEF,
        normalize_advantages=False,
        lam=1.0,
        vf_coef=1.0,
        cliprange_value=10.0,
        **kl,
    )
    policy = language.trained(
        PPOTrainer, args, lambda completion_ids, **_: [worth[tuple(ids)] for ids in completion_ids], prompts=batch
    )
    return tuple(language.total_variation(logps.exp(), optimum) for logps in (reference, policy))


@pytest.mark.slow
def test_k1_in_the_reward_converges_to_the_optimum(tmp_path):
    before, after = distance_to_the_optimum(tmp_path, steps=100, learning_rate=0.02)
    assert before > 0.4 and after <= 0.02


@pytest.mark.slow
def test_k2_of_the_sequence_in_the_loss_converges_and_that_of_tokens_stops_short(tmp_path):
    # Its gradient is noisy at the optimum too, where that of k1 in the reward vanishes: more samples to average over.
    k2 = {"kl_estimator": "k2", "kl_placement": "loss"}
    _, sequence = distance_to_the_optimum(tmp_path, steps=200, batch=512, learning_rate=0.005, **k2)
    _, token = distance_to_the_optimum(tmp_path, steps=100, learning_rate=0.01, kl_level="token", **k2)
    assert sequence <= 0.02
    assert token >= 0.05


@pytest.mark.slow
def test_k3_in_the_reward_goes_elsewhere(tmp_path):
    _, after = distance_to_the_optimum(tmp_path, steps=60, learning_rate=0.02, kl_estimator="k3")
    assert after >= 0.2
