"""Decide whether rows are packed by comparing packed with padded rows on the model itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from accelerate.utils import broadcast_object_list

from trl_ext.batching import attention, images, kernels, proof
from trl_ext.batching.packed import PackedRow, Tree, pack
from trl_ext.batching.padded import padded_batch
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.support.errors import UserError
from trl_ext.support.free_memory import release
from trl_ext.trainers.common import forward, lora
from trl_ext.trainers.common.processes import on_any_process
from trl_ext.trainers.common.runtime import Runtime


@dataclass(frozen=True)
class PackingProof:
    """Compare packed with padded rows before the first step.

    Attributes:
        runtime: The policy that is tested.
        obstacle: Why rows cannot be packed, whatever the comparison shows; see `obstacle`.
    """

    runtime: Runtime
    obstacle: str | None

    def decide(self, trees: Callable[[], list[Tree]]) -> bool:
        """Whether packed and padded rows give the same log-probabilities with this model. The result is logged.

        The model is switched to the fastest kernel with which they do.

        Args:
            trees: Returns prompts with at least two completions each, one of which is compared.
        """
        return self._decide(lambda: self._prove(trees), "with shared prompts", "padded and sorted by length")

    def decide_images(self, collate: Callable[[], dict[str, Any]], complete: Callable[[dict], dict]) -> bool:
        """The same as `decide` for pairs with images.

        Args:
            collate: Returns at least two pairs as TRL's collator does.
            complete: Completes a packed batch on the device.
        """
        return self._decide(
            lambda: self._prove_images(collate, complete), "with the prompt of a pair and its images once", "padded"
        )

    def _decide(self, prove: Callable[[], proof.Outcome], packed: str, padded: str) -> bool:
        runtime = self.runtime
        if not runtime.args.packing:
            return False
        with runtime.locally():
            reason = proof.known_to_be_wrong(runtime.base.config) or self.obstacle
            reason, measured = prove() if reason is None else proof.Outcome(reason)
        if on_any_process(runtime.accelerator, reason is not None) and reason is None:
            reason = "the comparison failed on another process"
        if reason is None:
            runtime.detail(f"rows: packed, {packed}; {measured}")
        else:
            runtime.say(f"rows: {padded}; packing is off for this model: {reason}")
        return reason is None

    def _prove(self, trees: Callable[[], list[Tree]]) -> proof.Outcome:
        base, given = self.runtime.base, trees()
        if self.runtime.is_sharded:
            given = broadcast_object_list([given])[0]  # all processes run the same passes
        given.sort(key=lambda tree: tree.tokens)
        tree = given[-1 if getattr(base.config.get_text_config(), "sliding_window", None) else len(given) // 2]
        with self.runtime.autocast(), no_grad_eval(self.runtime.model):
            padded = self._score(
                self.runtime.to_device(padded_batch([tree], pad_token_id=0))
            )  # any id: padding is masked
            return self._with_kernels(
                {"packed": pack([tree, tree])}, padded.repeat(2), list(map(len, tree.completions))
            )

    def _prove_images(self, collate: Callable[[], dict[str, Any]], complete: Callable[[dict], dict]) -> proof.Outcome:
        collated = collate()
        packed = images.pack_pairs(collated)
        if packed is None:
            return proof.Outcome("its processor does not repeat the images of a prompt for the rejected completion")
        lengths = collated["completion_mask"].sum(dim=1).tolist()
        with self.runtime.autocast(), no_grad_eval(self.runtime.model):
            try:
                padded = self._score(self.runtime.to_device(collated))
            except (AttributeError, TypeError) as error:
                raise UserError(
                    f"{type(self.runtime.base).__name__} of transformers {transformers.__version__} fails on examples with images, in "
                    f"padded rows, too ({error}). Choose another vision-language model, or another version of transformers."
                ) from error
            try:
                batch = complete(self.runtime.to_device(packed))
            except Exception as error:  # of a model that computes the positions of images in another way
                return proof.Outcome.of_error(error)
            return self._with_kernels(batch, padded, lengths)

    def _with_kernels(self, batch: dict[str, Any], padded: torch.Tensor, lengths: list[int]) -> proof.Outcome:
        """Compare the packed row of a batch with padded values, (S,), kernel by kernel."""
        args, base = self.runtime.args, self.runtime.base
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else self.runtime.model.dtype
        row, slower = batch["packed"], ""

        def score(row: PackedRow) -> torch.Tensor:
            return self._score({**batch, "packed": row})

        for kernel in kernels.usable(args.device, dtype):
            before = attention.switch(base, kernel)
            outcome = proof.prove(score, padded, row, lengths, dtype)
            if outcome.reason is None and kernel != kernels.SEGMENTS:
                # An external kernel has its own backward pass, which is tested too.
                outcome = proof.prove_gradient(score, row, args.device, outcome)
            if outcome.reason is None:
                return proof.Outcome(None, outcome.measured + slower)
            release()  # a kernel that failed may have left memory behind, or a pending error
            slower = f"; not {kernels.IN_WORDS[kernel].removeprefix('attention ')}: {outcome.reason}"
        attention.switch_back(base, before)
        return outcome

    def _score(self, batch: dict[str, Any]) -> torch.Tensor:
        """Summed log-probabilities of a row's completions, (S,)."""
        return forward.run(self.runtime.model, batch).per_token_logps.float().sum(dim=1)


def obstacle(
    args: Any, model: Any, *, has_second_model: bool, own_inputs: str | None, has_aux_loss: bool
) -> str | None:
    """Why packed and padded rows differ by definition with these settings; `None` if they do not.

    Args:
        args: The trainer's configuration.
        model: The policy.
        has_second_model: The reference is a separate model.
        own_inputs: A clause about the user's code that makes the model's inputs from examples; `None` without such code.
        has_aux_loss: A mixture of experts adds its load-balancing loss.
    """
    if has_second_model:
        return "a second reference model is in use"
    if own_inputs is not None:
        return f"{own_inputs}, which packed rows would not use"
    if has_aux_loss:
        return "sharing prompts would change the auxiliary loss of the mixture of experts (`router_aux_loss_coef: 0.0` turns it off)"
    if getattr(args, "truncation_mode", "keep_start") != "keep_start":
        return "`truncation_mode: keep_end` cuts the prompt differently for each completion"
    if lora.has_adapter(model) and model.active_peft_config.is_prompt_learning:
        return "prompt learning prepends virtual tokens to every sequence"
    return None
