"""Define preference losses: pure functions of log-probabilities, one per file, found by the file's name.

    from trl_ext import losses
    losses.available()                       # every name
    info = losses.describe("ipo")            # its declaration, read without importing torch
    info.check({"beta": -1})                 # a list of problems, one sentence each
    loss = losses.get("ipo", beta=0.1)       # imports torch
    out = loss(chosen_logps=..., rejected_logps=..., ...)   # per-example losses and detached rewards
    losses.get({"dpo": 1.0, "sft": 0.2})     # a weighted mix, with the same interface

To add a loss, add a file `<name>.py` to this folder, like the existing ones. Its signature is its declaration: positional
parameters name the tensors it reads, keyword-only parameters its hyperparameters.
"""

from trl_ext.losses._declaration import LossInfo
from trl_ext.losses._loss import Loss, Mix, get
from trl_ext.losses._mix import MixInfo, describe_mix
from trl_ext.losses._outputs import PairedOutput, UnpairedOutput
from trl_ext.losses._registry import available, canonical, describe, readers

NOTATION = (
    "Δ = log π − log π_ref summed over a completion; w chosen, l rejected; h = Δ_w − Δ_l; "
    "ℓ = log π summed over a completion; a bar divides by the completion's tokens; σ the logistic function"
)

__all__ = [
    "NOTATION",
    "Loss",
    "LossInfo",
    "Mix",
    "MixInfo",
    "PairedOutput",
    "UnpairedOutput",
    "available",
    "canonical",
    "describe",
    "describe_mix",
    "get",
    "readers",
]
