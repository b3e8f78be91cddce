"""Compute rewards with other divergences than the reverse KL: f-DPO (Wang et al. 2023, arXiv:2309.16240).

With a regulariser D_f(π‖π_ref) the implicit reward is β·f′(π/π_ref) plus a term that depends only on the prompt. This term
cancels in the difference of chosen and rejected, so other divergences are possible only in losses of that difference.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trl_ext.losses._hyperparameters import DIVERGENCES
from trl_ext.losses._numerics import bounded_exponent


def score(log_ratio: Tensor, f_divergence_type: str, f_alpha_divergence_coef: float) -> Tensor:
    """f′(t) at log t = `log_ratio` (B,), up to a constant that cancels between chosen and rejected.

    reverse_kl: log t; forward_kl: 1 − 1/t; js_divergence: log(2t/(1+t)); alpha_divergence:
    (t^(α−1) − 1)/(α−1), which is log t at α = 1 and forward_kl at α = 0. Exponents are limited (see
    `bounded_exponent`). TRL 1.16 limits them only for alpha_divergence, so its forward_kl becomes infinite and then NaN
    if the policy lowers a completion's log-prob by 88 nats. ValueError for another divergence.
    """
    if f_divergence_type == "reverse_kl":
        return log_ratio
    if f_divergence_type == "forward_kl":
        return _power_score(log_ratio, -1.0)
    if f_divergence_type == "js_divergence":
        return math.log(2) + logsigmoid(log_ratio)
    if f_divergence_type == "alpha_divergence":
        return _power_score(log_ratio, f_alpha_divergence_coef - 1.0)
    raise ValueError(f"f_divergence_type must be one of {', '.join(DIVERGENCES)}, not {f_divergence_type!r}.")


def _power_score(log_ratio: Tensor, power: float) -> Tensor:
    if abs(power) < 1e-6:  # the limit is log t; dividing by a smaller number loses precision
        return log_ratio
    exponent = power * log_ratio
    cut = bounded_exponent(exponent)
    # 16-bit types are exponentiated in float32, then rounded once.
    wide = cut if cut.dtype in (torch.float32, torch.float64) else cut.float()
    return torch.expm1(wide).to(log_ratio.dtype) / power
