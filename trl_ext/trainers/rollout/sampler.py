"""Choose the weights that completions are sampled from, and sample from them: `sampling_weights`.

A trainer asks for a rollout by `sample`. Before the first one the choice is made and printed with its reason; a resumed run
continues with the choice of the run that it resumes, so that it samples the same completions.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from trl_ext.batching.budget import size_in_words
from trl_ext.support.errors import UserError
from trl_ext.support.free_memory import release
from trl_ext.support.memory_errors import in_parentheses, is_out_of_memory
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.processes import on_any_process
from trl_ext.trainers.common.step_zero import HALF, is_rounded
from trl_ext.trainers.common.temporarily import temporarily
from trl_ext.trainers.rollout import merged_copy, sampling_logps, sampling_memory, shared_prompts
from trl_ext.trainers.rollout.merged_copy import CannotMergeError, MergedCopy
from trl_ext.trainers.rollout.unchanged import unchanged

AUTO, ADAPTER, MERGED = "auto", "adapter", "merged"
STATE = "sampling_weights"

ROUNDING_32_BIT, ROUNDING_16_BIT = 1e-3, 0.1
"""Mean difference of log-probabilities, in nats per token, that rounding stays below."""

Generate = Callable[[], list[list[int]]]
"""Samples completions from `trainer.model_wrapped`."""


class Sampler:
    """Samples completions from the base with its adapter, or from a merged copy.

    Args:
        policy: The base with all adapters.
        args: The trainer's configuration.
        accelerator: Prints, and agrees over processes.

    Attributes:
        choice: `adapter` or `merged`; `None` before the first rollout.
    """

    def __init__(self, policy: PeftModel, args: Any, accelerator: Accelerator) -> None:
        self.policy = policy
        self.args = args
        self.accelerator = accelerator
        self.choice: str | None = None
        self._copy: MergedCopy | None = None
        self._has_warned = False

    def sample(
        self, trainer: Any, generate: Generate, prompts: list[list[int]]
    ) -> tuple[list[list[int]], Tensor | None]:
        """Sample completions of `prompts`, token ids.

        Returns:
            Token ids of the completions, and their log-probabilities under the weights that sampled them, (B, T), NaN where
            they are not known; `None` if these weights are the policy's own.

        Raises:
            UserError: `sampling_weights` is `merged`, and the policy cannot be merged or memory ran out.
        """
        if self._prepared(prompts, bool(trainer.optimizer and trainer.optimizer.state)):
            completions, logps = self._from_copy(trainer, generate)
            if on_any_process(self.accelerator, completions is None):
                self._give_up()
            if completions is not None:
                return completions, logps
            # Other processes have log-probabilities, and metrics need them of all.
            count = self.accelerator.num_processes
            logps = torch.full((len(prompts), 1), torch.nan, device=self.accelerator.device) if count > 1 else None
            return self._from_adapter(generate), logps
        return self._from_adapter(generate), None

    def judge(self, difference: float, trainer: Any) -> None:
        """Warn once if sampling weights and policy differ by more than rounding.

        Args:
            difference: Mean of |log π_train − log π_sample|, in nats per token.
        """
        args = self.args
        is_reshaped = args.generation_kwargs or args.repetition_penalty != 1.0  # noted before training
        largest = ROUNDING_16_BIT if self._is_in_16_bits(trainer) else ROUNDING_32_BIT
        if self._has_warned or is_reshaped or difference <= largest:
            return
        self._has_warned = True
        say(
            self.accelerator,
            f"The weights that completions are sampled from differ from the policy by {difference:.2g} nats per token on average; "
            f"rounding causes less than {largest:g}. The policy loss is weighted by the ratio (`sampling/weight/mean`), so that "
            "its gradient is corrected up to the bounds. If the difference stays, set `sampling_weights: adapter`, and report "
            "it as a bug in trl-ext.",
            is_warning=True,
        )

    def free(self) -> None:
        """Free the merged copy. The next rollout makes it again."""
        self._copy = None

    @property
    def copy(self) -> Any:
        """The merged model; `None` if there is none at the moment."""
        return None if self._copy is None else self._copy.model

    def state_dict(self) -> dict[str, Any]:
        return {STATE: self.choice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.args.sampling_weights == AUTO:
            self.choice = state.get(STATE)  # older checkpoints have none

    # Sampling ---------------------------------------------------------------------------------------------------

    def _from_adapter(self, generate: Generate) -> list[list[int]]:
        with unchanged(self.policy), shared_prompts.run_once(self.policy.get_base_model()):
            return generate()

    def _from_copy(self, trainer: Any, generate: Generate) -> tuple[list[list[int]] | None, Tensor | None]:
        """As `sample`, from the merged copy. `None` for the completions if memory ran out and `auto` may do without it."""
        model = self._copy.model
        temperature = trainer.generation_config.temperature or 1.0  # a greedy pass has none
        try:
            with (
                unchanged(model),
                temporarily(trainer, model_wrapped=model),
                shared_prompts.run_once(model),
                sampling_logps.recorded(model, temperature) as recorder,
            ):
                return generate(), recorder.logps
        except Exception as error:
            if self.args.sampling_weights != AUTO or not is_out_of_memory(error):
                raise
        return None, None

    def _give_up(
        self, quoted: str = "", phase: str = "while completions were sampled from the merged weights"
    ) -> None:
        """Sample from the adapter from now on, on all processes. Call it outside the handler of the error."""
        self._copy = None
        self.choice = ADAPTER
        release()
        if self.args.sampling_weights == MERGED:
            raise UserError(
                f"Out of memory {phase}{quoted}. `sampling_weights: merged` keeps a copy of the base in memory. Remove it, or "
                "lower `per_device_train_batch_size` or `max_completion_length`."
            )
        say(
            self.accelerator,
            f"out of memory {phase}{quoted}: they are freed, and completions are sampled from the base with its adapter from "
            "now on",
        )

    def _is_in_16_bits(self, trainer: Any) -> bool:
        """Whether the policy or the weights that sample compute in 16 bits, or round their inputs to 8."""
        of_copy = None if self.copy is None else self.copy.dtype
        return is_rounded(trainer) or self.args.use_vllm or of_copy in HALF

    # The choice -------------------------------------------------------------------------------------------------

    def _prepared(self, prompts: list[list[int]], has_optimizer: bool) -> bool:
        """Choose if nothing is chosen yet, and make or refresh the copy. Returns whether there is one."""
        if self.choice is None:
            self._choose(prompts, has_optimizer)
        if self.choice == ADAPTER:
            return False
        has_failed, quoted, phase = False, "", "refreshed" if self._copy is not None else "made"
        try:
            if self._copy is None:
                self._copy = MergedCopy(self.policy, merged_copy.dtype_of(self.policy))
                if self.args.use_transformers_continuous_batching:  # after which the trainer scores with the copy, too
                    add_fused_lm_head(
                        self._copy.model, temperature=self.args.temperature, outputs=("log_probs", "entropy")
                    )
            else:
                self._copy.refresh()
        except CannotMergeError as error:
            self._refuse(str(error))
            return False
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            has_failed, quoted = True, in_parentheses(error)
        if on_any_process(self.accelerator, has_failed):
            self._give_up(quoted, f"while the merged weights were {phase}")
            return False
        return True

    def _choose(self, prompts: list[list[int]], has_optimizer: bool) -> None:
        if self.args.sampling_weights == ADAPTER or self.args.use_vllm:
            self.choice = ADAPTER
            return
        if (reason := merged_copy.why_not_model(self.policy)) is not None:
            self._refuse(reason)
            return
        self.choice = MERGED
        if self.args.sampling_weights == AUTO:
            self._choose_by_memory(prompts, has_optimizer)

    def _choose_by_memory(self, prompts: list[list[int]], has_optimizer: bool) -> None:
        dtype = merged_copy.dtype_of(self.policy)
        longest = max(map(len, prompts), default=1)
        try:
            need = sampling_memory.need(
                self.policy,
                self.args,
                dtype,
                completions=len(prompts),
                prompt_length=longest,
                has_optimizer=has_optimizer,
            )
        except UserError as error:
            self._refuse(sampling_memory.why_unknown(error))
            return
        fits = not on_any_process(self.accelerator, not need.fits)
        self.choice = MERGED if fits else ADAPTER
        weights = f"a merged copy of the base in {8 * dtype.itemsize} bits" if fits else "the base with its adapter"
        it = "The copy" if fits else f"A merged copy in {8 * dtype.itemsize} bits"
        say(
            self.accelerator,
            f"sampling_weights: {self.choice}. Completions are sampled from {weights}. {it} takes {size_in_words(need.copy)}, and "
            f"the rest of the run {size_in_words(need.run)}, of the {size_in_words(need.free)} that can be used.",
        )

    def _refuse(self, reason: str) -> None:
        """UserError if merged weights were asked for; otherwise sample from the adapter."""
        if self.args.sampling_weights == MERGED:
            raise UserError(f"`sampling_weights` is merged, but {reason}. Set `sampling_weights: adapter`.")
        self.choice, self._copy = ADAPTER, None
        say(
            self.accelerator,
            f"sampling_weights: adapter. Completions are sampled from the base with its adapter, because {reason}.",
        )
