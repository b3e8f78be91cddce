"""How online preference training learns: a loss on pairs, proven on the first step, in as many parts as memory needs."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from trl_ext.rl import masked
from trl_ext.trainers.common import step_zero
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.step_zero import APART
from trl_ext.trainers.rollout.generation import sequences
from trl_ext.trainers.rollout.update import RolloutUpdate

SIDES = "chosen", "rejected"
LOSS = "loss"  # summed for the first step's check, and not logged: transformers logs a loss of its own


class OnlineUpdate(RolloutUpdate):
    """Mixin before `trl.RLOOTrainer`; overrides its `_compute_loss`.

    Attributes read besides those of `RolloutUpdate`: `loss`, `aux_loss_enabled`, `router_aux_loss_coef`.
    """

    _one, _many = "pair", "pairs"
    _is_first_step = True
    precompute_ref_logps = False  # `step_zero` asks

    def _learn(self, batch: dict[str, Any]) -> Tensor:
        def loss_of(part: dict[str, Any]) -> Tensor:
            return self._compute_loss(self.model, part)

        return self._backward("in the update", loss_of, batch, self._trained())

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Mean over the micro-batch of weight × loss; pairs without a preference are not computed."""
        is_kept = inputs["weight"] > 0
        is_run = is_kept | (torch.arange(len(is_kept), device=is_kept.device) == 0)  # at least one, to have a graph
        run = {name: value[is_run] for name, value in inputs.items()}
        flat = {name: run[name].flatten(0, 1) for name in ("completion_ids", "completion_mask")}
        flat |= {name: run[name].repeat_interleave(2, dim=0) for name in ("prompt_ids", "prompt_mask")}
        logps, entropies, aux_loss = self._get_per_token_logps_and_entropies(
            model,
            *sequences(flat),
            flat["completion_ids"].size(1),
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
        )
        mask = flat["completion_mask"]
        fields = {"{}_logps": masked.total(logps, mask).view(-1, 2), "{}_lens": mask.sum(1).view(-1, 2)}
        if "ref_logps" in run:
            fields["ref_{}_logps"] = run["ref_logps"]
        tensors = {
            name.format(side): fields[name][is_kept[is_run], i] for i, side in enumerate(SIDES) for name in fields
        }
        output = self.loss(**{name: tensors[name] for name in self.loss.inputs})
        loss = (output.losses * inputs["weight"][is_kept]).sum() / len(is_kept)

        mode = "train" if self.model.training else "eval"
        self._record_losses(output, tensors, mode)
        self._sums[mode].add("entropy", masked.total(entropies.detach(), mask).sum(), mask.sum())
        if self.aux_loss_enabled:
            self._sums[mode].add("aux_loss", aux_loss, 1)
            loss = loss + self.router_aux_loss_coef * aux_loss
        if mode == "eval":
            self._close(mode)
        return loss

    def _record_losses(self, output: Any, tensors: dict[str, Tensor], mode: str) -> None:
        """Add the metrics of pairs with a preference."""
        sums, margins = self._sums[mode], output.chosen_rewards - output.rejected_rewards
        means = {"chosen": output.chosen_rewards, "rejected": output.rejected_rewards}
        means |= {"accuracies": margins > 0, "margins": margins}
        for name, values in means.items():
            sums.add(f"rewards/{name}", values.sum(), len(values))
        sums.add(LOSS, output.losses.sum(), len(output.losses))
        if self.loss.needs_reference:
            ratios = [tensors[f"{side}_logps"] - tensors[f"ref_{side}_logps"] for side in SIDES]
            apart = sum(
                (ratio.abs() / tensors[f"{side}_lens"]).sum() for side, ratio in zip(SIDES, ratios, strict=True)
            )
            sums.add(APART, apart, 2 * len(output.losses))

    def _close(self, mode: str) -> None:
        super()._close(mode)
        loss, apart = (self._metrics[mode].pop(name, [None])[-1] for name in (LOSS, APART))
        if mode == "train" and self._is_first_step:
            self._is_first_step = False
            if self.state.global_step == 0:
                self._check_first_loss(loss, apart)

    def _check_first_loss(self, loss: float | None, apart: float | None) -> None:
        """Compare the first step's loss with the value its formula gives at policy = reference.

        Args:
            loss: Its mean over all pairs with a preference, if there is any.
            apart: Mean distance of policy and reference, in nats per token.

        Raises:
            WrongInitialLossError: It is another one.
        """
        if loss is None:
            say(self.accelerator, "  first step not checked: none of its pairs has a preference")
        elif math.isfinite(loss):  # else `trl_ext.trainers.common.nonfinite` judges it
            step_zero.check(self, loss, apart)
