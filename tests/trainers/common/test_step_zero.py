"""When the loss of the first step counts as the known value."""

from types import SimpleNamespace

import pytest
import torch

from trl_ext import losses
from trl_ext.trainers.common import step_zero
from trl_ext.trainers.common.step_zero import WrongInitialLossError


def trainer_of(dtype: torch.dtype) -> SimpleNamespace:
    args = SimpleNamespace(bf16=dtype == torch.bfloat16, fp16=False)
    return SimpleNamespace(loss=losses.get("kto"), args=args, model=SimpleNamespace(dtype=dtype), accelerator=None)


# The loss of 8 completions of 2,000 tokens in float32 was 0.499982: 4e-7 nats per token add up to 7e-4 per completion.
@pytest.mark.parametrize(
    ("dtype", "measured", "apart", "said"),
    [
        (torch.float32, 0.5, None, "0.5000 = 0.5000, the known value"),
        (torch.float32, 0.5, 4e-7, "0.5000 = 0.5000, the known value"),
        (torch.float32, 0.499982, 4e-7, "up to rounding (4e-07 nats per token)"),
        (torch.float32, 0.499982, None, None),
        (torch.float32, 0.499982, 1e-3, None),  # a reference in 16 bits, say
        (torch.bfloat16, 0.49, 1e-2, "up to rounding (0.01 nats per token)"),
        (torch.bfloat16, 0.5, 0.1, None),
    ],
)
def test_rounding_is_told_from_another_reference(dtype, measured, apart, said, monkeypatch):
    printed = []
    monkeypatch.setattr(step_zero, "_why_unknown", lambda trainer: None)
    monkeypatch.setattr(step_zero, "say", lambda accelerator, text: printed.append(text))
    if said is None:
        with pytest.raises(WrongInitialLossError, match=r"kto loss is 0\.\d+.* gives 0\.500000"):
            step_zero.check(trainer_of(dtype), measured, apart)
        return
    step_zero.check(trainer_of(dtype), measured, apart)
    assert said in printed[0] and "correct" in printed[0]
