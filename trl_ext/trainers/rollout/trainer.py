"""Sample completions, score them and learn from them: the trainer that PPO and losses on sampled pairs share.

Only this file overrides methods of `trl.RLOOTrainer` (1.16) for both. Objects that are handed what they need do the work:
an update (`trl_ext.trainers.rollout.update`), metrics, and the files of a checkpoint.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trl import RLOOTrainer
from trl.trainer import rloo_trainer

from trl_ext.batching import attention
from trl_ext.reference import frozen_copy, modules, switching
from trl_ext.reference.implicit import no_grad_eval
from trl_ext.reference.starting_point import StartingPoint
from trl_ext.support.frozen_base import keep_exact_cpu_kernels
from trl_ext.trainers.common import (
    device_cache,
    fused_kernels,
    lora,
    nonfinite_report,
    out_of_memory,
    overrides,
    step_zero,
)
from trl_ext.trainers.common.checkpointed_layers import NoneAtFirst
from trl_ext.trainers.common.processes import reduce_gradients
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.common.temporarily import temporarily
from trl_ext.trainers.rollout import (
    completions_table,
    distances,
    generation,
    greedy,
    order,
    reward_functions,
    scores,
    token_ids,
    vllm_logps,
    vllm_weights,
)
from trl_ext.trainers.rollout.checkpoint import RolloutFiles
from trl_ext.trainers.rollout.metrics import StepMetrics, count_step, without_those_of_rloo
from trl_ext.trainers.rollout.rows import RolloutRows, Scored
from trl_ext.trainers.rollout.sampler import MERGED, Sampler
from trl_ext.trainers.rollout.update import RolloutUpdate, completions_per_prompt

ROOM = "`max_completion_length` or `lora_r`, or set `gradient_checkpointing: true`"


class RolloutTrainer(RLOOTrainer):
    """`trl.RLOOTrainer` on one base that training does not change.

    1. The reward adapter of the configuration is the last source of rewards, on the same base.
    2. Adapter weights are float32 (`trl_ext.trainers.common.lora`).
    3. The order of prompts depends only on seed and epoch, so a resumed run continues it.
    4. Backward passes bypass DDP's wrapper; gradients and metrics are reduced once per optimizer step.
    5. An optimizer step's micro-batches are learnt from as one batch, cut into rows in which the completions of a prompt share
       it. All passes but sampling run in such rows.
    6. An out-of-memory error outside of an update names its phase and the settings to lower.
    7. Completions may be sampled from a merged copy of the base (`trl_ext.trainers.rollout.sampler`).
    8. Policy and reference are run before the update only where something reads their log-probabilities.

    Overrides `train`, `evaluate`, `_get_train_sampler`; `_generate_and_score_completions`, `_generate_single_turn`,
    `_get_per_token_logps_and_entropies`, `_calculate_rewards`; `training_step`, `_compute_loss`; `_save`,
    `_save_checkpoint`, `_load_from_checkpoint`.

    Attributes of the parents read: `num_generations`, `num_iterations`, `shuffle_dataset`, `use_vllm`, `vllm_generation`,
    `model_wrapped`, `generation_config`, `reward_funcs`, `reward_func_names`, `reward_weights`, `reward_clip_range`, `eos_token_ids`,
    `aux_loss_enabled`, `router_aux_loss_coef`, `current_gradient_accumulation_steps`, `optimizer`, `_step`, `_buffered_inputs`,
    `_current_train_step_time`, `_metrics`, `_logs`.

    Attributes:
        rows: Runs policy, reference, critic and reward model on completions.
        memory: Chooses the length of rows and the checkpointed layers.
        update: Learns from rollouts.
        files: Of a checkpoint.
        sampler: Samples completions.
    """

    _bypassed = overrides.OF_LOSSES  # methods of the parents that training does not call

    def __init__(
        self,
        model: Any,
        sources: list,
        args: Any,
        *,
        make_update: Callable[..., RolloutUpdate],
        files: RolloutFiles,
        beta: float | None,
        **given: Any,
    ) -> None:
        """As TRL's trainer.

        Args:
            sources: Reward functions and models.
            make_update: Makes the update, from the arguments of `RolloutUpdate`.
            files: Of a checkpoint.
            beta: The coefficient that TRL's attribute of this name shows.

        Raises:
            ValueError: The folder is not a reward adapter, or belongs to another base.
        """
        sources, adapter, given["reward_processing_classes"] = reward_functions.complete(
            sources, args, model, given.get("reward_processing_classes")
        )
        weights, start = lora.snapshot(model), StartingPoint.of(model, args.temperature)
        # `auto` is resolved before the first micro-batch.
        told = temporarily(args, gradient_checkpointing=args.gradient_checkpointing is True)
        with told, frozen_copy.made_by_trl(model):
            super().__init__(model, reward_funcs=sources, args=args, **given)
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=torch.float32)
        fused_kernels.install(self)
        if start is not None:
            step_zero.check_start(self, start)
        runtime = Runtime(self.model, args, self.accelerator, self._autocast, self._prepare_input)
        self.memory = RowMemory(runtime, optimizer=lambda: self.optimizer, trained=lambda: self.update.parameters())
        self.add_callback(NoneAtFirst())
        self.rows = RolloutRows(runtime, self.memory, self._tokenizer.pad_token_id, has_aux_loss=self.aux_loss_enabled)
        if adapter is not None:
            adapter.attach_to_trainer(self)
        if self.use_vllm:
            vllm_weights.sent_merged(self.vllm_generation, self.model)
            vllm_logps.returned_by(self.vllm_generation)
        self.sampler = Sampler(self.model, args, self.accelerator)
        self.beta = beta
        self.files = files
        self.update = make_update(
            rows=self.rows,
            score=self._score,
            aux_loss_coef=self.router_aux_loss_coef,
            metrics=StepMetrics(self.accelerator, self._metrics),
        )
        self._observed: generation.Observed | None = None  # during a rollout
        self._collected: list[tuple[int, dict[str, Any]]] = []  # micro-batches of the optimizer step so far

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        """Context of a forward pass. Critic and reward model run the backbone past the model's own forward."""
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            yield

    def train(self, *args: Any, **kwargs: Any) -> Any:
        overrides.refuse_assigned(self, self._bypassed)
        self._collected = []
        told = temporarily(self.args, auto_find_batch_size=False)  # an update that does not fit is repeated anyway
        with told, out_of_memory.reported("in training", f"lower {ROOM}"):
            try:
                return super().train(*args, **kwargs)
            finally:
                self.sampler.free()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with out_of_memory.reported("in evaluation", "lower `per_device_eval_batch_size` or `max_completion_length`"):
            return super().evaluate(*args, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> order.ResumableSampler:
        return order.ResumableSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
        )

    # A rollout --------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """Sample and score by TRL, then let the update compute its targets."""
        mode = self._mode
        self.update.checkpoint_nothing()
        self._observed = generation.Observed()
        # TRL runs a reference pass for any β except 0; the rewards that it computes with β are not used here.
        trl_computes = temporarily(self, beta=float(self.update.needs_reference))
        with (
            trl_computes,
            temporarily(rloo_trainer, use_adapter=switching.used),
            without_those_of_rloo(self._metrics[mode]),
        ):
            batch = super()._generate_and_score_completions(inputs)
        del batch["old_logps"], batch["advantages"]
        observed, self._observed = self._observed, None
        sampled = observed.sampled(batch["completion_mask"], scores.of(self, observed.rewards, len(inputs)))
        if self.update.needs_greedy:
            sampled.greedy_scores = greedy.scores(self, inputs)
        size = completions_per_prompt(self.args, mode)
        sampled.normalised_scores = scores.normalised(self, observed.rewards, len(inputs), size)
        deviation = sampled.score_deviation(self.args.missing_eos_penalty, self.update.add_up)
        self._metrics[mode]["score/std"].append(deviation.item())
        learnable, shown = self.update.targets(batch, sampled, mode)
        completions_table.show(self, shown)
        return learnable

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        def generate() -> list[list[int]]:
            # Continuous batching knows no implementation of packed rows.
            model = self.accelerator.unwrap_model(self.model_wrapped)
            with attention.switched_off(model.get_base_model() if lora.has_adapter(model) else model):
                return super(RolloutTrainer, self)._generate_single_turn(prompt_ids, *args, **kwargs)

        memory = self._memory_reported("while completions were sampled", is_sampling=True)
        with memory, nonfinite_report.sampling(self):
            completion_ids, logps = self.sampler.sample(self, generate, prompt_ids)
        if self._observed is not None:
            self._observed.sampling_logps = vllm_logps.of(self.vllm_generation) if self.use_vllm else logps
            if logps is None and self.sampler.choice == MERGED:  # continuous batching returns none
                self._observed.sampled_by = self.sampler.copy
        return completion_ids

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **of_images: Any,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What TRL computes in padded micro-batches, in rows. Prompts are text, so that there are no images."""
        trees = token_ids.from_sequences(input_ids, attention_mask, logits_to_keep)
        score = partial(self.rows.score, model, trees, logits_to_keep, router_logits=compute_aux_loss)
        observed = self._observed
        if observed is None:
            self.rows.prepare(trees)
            return score()
        with self._memory_reported("while completions were scored under policy and reference", cuts_rows=True):
            if observed.is_policy_done:
                with no_grad_eval(self.model):  # it has no dropout, neither of its adapter nor of the base
                    return observed.of_reference(score())
            self.rows.prepare(trees)
            if observed.sampled_by is not None:
                of_copy = (observed.take_copy(), input_ids, attention_mask, logits_to_keep, batch_size)
                with torch.no_grad():
                    observed.sampling_logps = super()._get_per_token_logps_and_entropies(*of_copy)[0]
            if self.update.needs_logps(self._mode):
                return observed.of_policy(score())  # in the mode in which it is trained
            return observed.of_no_policy(len(trees), logits_to_keep, input_ids.device)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        with self._memory_reported("while rewards were computed"):
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        reward_functions.check_models(self.reward_funcs, self.reward_func_names, rewards)
        if self._observed is not None:
            self._observed.of_sources(rewards, [ids[-1] in self.eos_token_ids for ids in completion_ids_list])
        return rewards

    def _close(self, mode: str) -> None:
        """End an optimizer step before the optimizer runs, or an evaluation batch, and judge the distances of the policy."""
        distances.judge(self.update.close(mode), self)

    def _memory_reported(self, phase: str, **kind: bool) -> Any:
        return generation.memory_reported(phase, is_training=self.model.training, **kind)

    # An optimizer step ------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Collect a micro-batch; at the last one of an optimizer step, learn from all of them.

        Then reduce gradients and metrics over processes. The loss of the step is returned with its last micro-batch.
        """
        started = time.perf_counter()
        modules.train(self.model)
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()  # schedule-free optimizers
        with temporarily(rloo_trainer, **order.shuffling(self.args)):
            micro_batch = self._prepare_inputs(inputs)
        # Sharing the auxiliary loss of a mixture of experts among micro-batches would change it.
        number = self._step if self.aux_loss_enabled else self._step // self.args.steps_per_generation
        self._collected.append((number, micro_batch))
        loss = torch.zeros((), device=self.args.device)
        if self.accelerator.sync_gradients:
            collected, self._collected = self._collected, []
            loss = self.update.learn_step(collected)
            device_cache.empty_on_schedule(self)
            reduce_gradients(self.accelerator, self.update.parameters(), "mean")
            self._close("train")
        count_step(self, time.perf_counter() - started)
        return loss

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The policy's loss, for evaluation."""
        loss = self.update.policy_loss(inputs, self.update.metrics.sums[self._mode])
        if not self.model.training:
            self._close("eval")
        return loss

    def _score(self, batch: dict[str, Tensor]) -> Scored:
        """The completions of a batch under the policy."""
        return Scored(
            *self._get_per_token_logps_and_entropies(
                self.model,
                *generation.sequences(batch),
                batch["completion_ids"].size(1),
                compute_entropy=True,
                compute_aux_loss=self.aux_loss_enabled,
            )
        )

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    # A checkpoint -----------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with lora.saved_alone(self.model, *self.files.adapters):
            super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.files.save_roles(self.model, Path(self.args.output_dir if output_dir is None else output_dir))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our own file first: transformers writes its state last, and a checkpoint with that state counts as complete.
        folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        self.files.save_state(
            folder,
            step=self._step,
            rollout=self._buffered_inputs,
            update=self.update.state_dict() | self.sampler.state_dict(),
        )
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        state = self.files.load_state(folder)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.files.load_roles(self.model, folder)
        self._step, self._buffered_inputs = state["step"], state["rollout"]
        self.update.load_state_dict(state)
        self.sampler.load_state_dict(state)
