"""Give the settings of the SimPO authors' scripts, which extend those of the alignment handbook."""

from typing import Any

from trl_ext.foreign.common import of
from trl_ext.foreign.dialect import Dialect, Values
from trl_ext.foreign.handbook import HANDBOOK
from trl_ext.foreign.meaning import Meaning


def _sft(weight: Any) -> Meaning:
    return Meaning({"loss": {"simpo": 1, "sft": weight}}, "this adds the SFT loss")


def _is_simpo(values: Values) -> bool:
    return HANDBOOK.is_written_in(values) and "gamma_beta_ratio" in values


SIMPO = Dialect("the SimPO authors' scripts", {**HANDBOOK.means, "sft_weight": of(_sft)}, _is_simpo)
