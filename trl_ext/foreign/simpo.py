"""Give the settings of the SimPO authors' scripts, which extend those of the alignment handbook."""

from typing import Any

from trl_ext.foreign.common import DEFAULT
from trl_ext.foreign.dialect import Dialect, Values
from trl_ext.foreign.handbook import HANDBOOK
from trl_ext.foreign.meaning import Meaning


def _loss(kind: Any, values: Values) -> Meaning:
    """`loss_type` is the shape of SimPO's loss."""
    weight = values.get("sft_weight")
    loss = {"loss": {"simpo": 1, "sft": weight} if weight else "simpo"}
    if kind in (None, "sigmoid"):
        return Meaning(loss)
    return Meaning(loss, "SimPO's loss is −log σ here", f"the loss is not that of `loss_type: {kind}`")


def _sft(weight: Any, values: Values) -> Meaning:
    if not weight:
        return DEFAULT
    return Meaning({"loss": {"simpo": 1, "sft": weight}}, "this adds the SFT loss")


def _is_simpo(values: Values) -> bool:
    return HANDBOOK.is_written_in(values) and ("gamma_beta_ratio" in values or values.get("trainer") == "simpo")


def _defaults(values: Values) -> dict[str, Any]:
    return {"loss_type": "sigmoid", "beta": 2.0, "gamma_beta_ratio": 0.25}


SIMPO = Dialect(
    "the SimPO authors' scripts", {**HANDBOOK.means, "loss_type": _loss, "sft_weight": _sft}, _is_simpo, _defaults
)
