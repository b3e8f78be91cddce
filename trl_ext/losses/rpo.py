"""RPO: Reward-aware Preference Optimization (Nemotron-4 340B 2024, arXiv:2406.11704; Sun et al. 2025, arXiv:2502.00203)."""

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import Positive
from trl_ext.losses._outputs import PairedOutput

FORMULA = "σ(ηm)[log σ(ηm) − log σ(βh)] + σ(−ηm)[log σ(−ηm) − log σ(−βh)]; m: difference of the rewards"
PAPER = "arXiv:2406.11704"
REDUCTION = "log-probs summed over completion tokens"
BETA_UNIT = "per nat of summed log-ratio; ηm is the targeted βh"
WHEN = "You know by how much each chosen completion is better, as from a reward model, and equally good ones must not be pushed apart."


def rpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    margin: Tensor,
    *,
    beta: Positive = 0.1,
    eta: Positive = 1.0,
    distance: Literal["backward_kl", "forward_kl", "squared"] = "backward_kl",
) -> PairedOutput:
    """Distance of the implicit reward margin βh from the margin ηm of the data's rewards  (arXiv:2406.11704, Section 3.3.2).

    Inputs (B,), log-probs summed over completion tokens; `margin` m is a column of the data, in units of its rewards, and η
    converts it to nats. Unlike `dpo`, it does not push a pair apart without limit, but to its margin. With a negative margin,
    the rejected completion is preferred.

    `distance` compares Bernoulli distributions with the probabilities p = σ(ηm) and q = σ(βh): `backward_kl` is KL(p‖q), the
    paper's and the formula above; `forward_kl` is KL(q‖p); `squared` is (βh − ηm)². All three are those of the
    authors' NeMo-Aligner. Rewards: β × log-ratio.
    """
    chosen_rewards = beta * (chosen_logps - ref_chosen_logps)
    rejected_rewards = beta * (rejected_logps - ref_rejected_logps)
    implicit, target = chosen_rewards - rejected_rewards, eta * margin
    if distance == "squared":
        losses = (implicit - target) ** 2
    else:
        p, q = (target, implicit) if distance == "backward_kl" else (implicit, target)
        losses = p.sigmoid() * (logsigmoid(p) - logsigmoid(q)) + (-p).sigmoid() * (logsigmoid(-p) - logsigmoid(-q))
    return PairedOutput(losses, chosen_rewards.detach(), rejected_rewards.detach())
