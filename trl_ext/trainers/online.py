"""Preference losses on pairs sampled on the way (Guo et al. 2024, arXiv:2402.04792).

Pairs written down beforehand tell less and less about a policy that moves away from the one they were sampled from. Here
the policy answers each prompt several times, the reward sources score the answers, and the best and the worst are a pair.

How it departs from `trl.RLOOTrainer` (1.16), whose generation, reward functions, buffering and logging it keeps:

1. a rollout is cut into pairs instead of completions, and the loss is one of `trl_ext.losses`;
2. completions of equal score carry no preference: their pair is left out, and the others weigh the more;
3. a loss that reads no reference value costs no reference pass;
4. adapter weights are float32 (`trl_ext.trainers.lora`), and the base stays as it was loaded;
5. a resumed run goes on with the very rollout it was in (`trl_ext.trainers.rollout_checkpoint`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin
from trl import RLOOTrainer

from trl_ext import losses
from trl_ext.frozen_base import keep_exact_cpu_kernels
from trl_ext.rl import masked
from trl_ext.rl.pairs import best_and_worst
from trl_ext.trainers import lora, merged_weights, reward_functions, step_zero
from trl_ext.trainers.finite import FiniteSteps
from trl_ext.trainers.metrics import MeanMetrics
from trl_ext.trainers.model_card import ModelCard
from trl_ext.trainers.online_config import OnlinePreferenceConfig
from trl_ext.trainers.ppo import PPOTrainer
from trl_ext.trainers.ppo_rollout import PPORollout, Seen, sequences
from trl_ext.trainers.rollout import Sampled
from trl_ext.trainers.rollout_checkpoint import RolloutCheckpoint
from trl_ext.trainers.run_directory import RunDirectory
from trl_ext.trainers.staged_checkpoint import StagedCheckpoint


class OnlinePreferenceTrainer(FiniteSteps, StagedCheckpoint, ModelCard, RolloutCheckpoint, PPORollout, RLOOTrainer):
    """Preference optimisation from sampled pairs, constructed like `trl.RLOOTrainer`.

    Overrides `_generate_and_score_completions`, `_compute_loss`, `training_step` and `_get_train_sampler` of it, and
    through the mixins the methods named there. Attributes of the parents read: `num_generations`, `num_generations_eval`,
    `num_iterations`, `aux_loss_enabled`, `router_aux_loss_coef`, `use_vllm`, `vllm_generation`, `_metrics`.
    """

    _name = "Online preference optimisation"
    _tag_names = ["trl", "trl-ext", "online-preference"]  # noqa: RUF012
    _state_name = "online_state"
    precompute_ref_logps = False  # `step_zero` asks

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: OnlinePreferenceConfig | None = None, **given: Any
    ) -> None:
        """As TRL's trainer, whose other arguments are given by keyword.

        Args:
            reward_funcs: One reward function, path of a sequence classifier or loaded one, or a list of them. May be
                left out where `args.reward_adapter` is the only source; it comes last in `args.reward_weights`.

        Raises:
            TypeError: `args` is another configuration.
            ValueError: Settings that cannot work here; where possible before weights are loaded.
        """
        args = args or OnlinePreferenceConfig(output_dir="Online-output")
        sources = reward_functions.listed(reward_funcs)
        refuse(args, model, sources, given)
        self.loss = losses.get(args.loss, **args.loss_kwargs)
        sources, adapter, given["reward_processing_classes"] = reward_functions.complete(
            sources, args, model, given.get("reward_processing_classes")
        )
        self._sums = {"train": MeanMetrics(), "eval": MeanMetrics()}
        weights = lora.snapshot(model)
        super().__init__(model, reward_funcs=sources, args=args, **given)
        # TRL runs a reference pass for any β but 0; what it computes with β itself is not used here.
        self.beta = float(self.loss.needs_reference)
        keep_exact_cpu_kernels(self.model)
        lora.restore(self.model, weights, dtype=torch.float32)
        if adapter is not None:
            adapter.attach(self)
        if self.use_vllm:
            self.vllm_generation._iter_named_params = lambda: merged_weights.named_weights(self.model)
        step_zero.announce(self)

    _get_train_sampler = PPOTrainer._get_train_sampler  # a function of seed and epoch, and so resumable

    def card_method(self) -> dict[str, str]:
        return {
            "method": "online preference optimisation (arXiv:2402.04792)",
            "rewards": ", ".join(f"`{name}`" for name in self.reward_func_names),
            "pairs": f"best and worst of {self.num_generations} completions, rollouts used {self.num_iterations} times",
            **RunDirectory.card_method(self),
        }

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        """TRL's rollout as P pairs.

        Returns:
            `prompt_ids`, `prompt_mask` (P, L); `completion_ids`, `completion_mask` (P, 2, C), the chosen one first;
            `ref_logps` (P, 2), summed over tokens, where the loss reads a reference; `weight` (P,), 0 without a preference
            and else such that it is 1 on average over all processes.
        """
        mode = "train" if self.model.training else "eval"
        self._seen = Seen()
        batch = super(PPORollout, self)._generate_and_score_completions(inputs)  # past what PPO's critic needs
        seen, self._seen = self._seen, None
        mask = batch["completion_mask"]
        sampled = Sampled(
            logps=seen.logps[0],
            ref_logps=seen.logps[1] if self.loss.needs_reference else None,
            mask=mask,
            scores=self._scores(seen.rewards, len(inputs)).masked_fill(~mask.any(1), torch.nan),
            is_ended=torch.tensor(seen.is_ended, device=mask.device),
        )
        scores = sampled.penalised_scores(self.args.missing_eos_penalty)
        generations = self.num_generations if mode == "train" else self.num_generations_eval
        pairs, has_preference = best_and_worst(scores, generations)
        self._record_pairs(sampled, scores, pairs[has_preference], len(pairs), mode)
        kept, count = self._add_up(torch.stack([has_preference.sum(), torch.ones_like(has_preference).sum()]))
        cut = {"weight": has_preference * count / kept.clamp(min=1)}
        if sampled.ref_logps is not None:
            self._check_first(sampled)
            cut["ref_logps"] = masked.total(sampled.ref_logps, mask)[pairs]
        cut |= {name: batch[name][pairs[:, 0]] for name in ("prompt_ids", "prompt_mask")}
        return cut | {name: batch[name][pairs] for name in ("completion_ids", "completion_mask")}

    def _record_pairs(self, sampled: Sampled, scores: Tensor, pairs: Tensor, count: int, mode: str) -> None:
        """Add the metrics of a rollout; `pairs` are those with a preference, of `count`."""
        for name in ("kl", "frac_reward_zero_std"):  # a token mean where others are sums; of the reward less the KL
            self._metrics[mode].pop(name, None)
        sampled.record_samples(self._sums[mode])
        self._sums[mode].add("score/margin", scores[pairs].diff().neg().sum(), len(pairs))
        self._sums[mode].add("pairs/ties", count - len(pairs), count)
        verdict = torch.zeros_like(scores)
        verdict[pairs] = verdict.new_tensor([1.0, -1.0])
        # In the table of completions, what became of each instead of RLOO's advantage.
        self._show_advantages({"token_advantages": verdict[:, None], "loss_mask": torch.ones_like(verdict)[:, None]})

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Mean over the micro-batch of weight × loss; pairs without a preference are not computed."""
        is_kept = inputs["weight"] > 0
        is_run = is_kept | (torch.arange(len(is_kept), device=is_kept.device) == 0)  # at least one, for DDP
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
        sides = enumerate(("chosen", "rejected"))
        tensors = {name.format(side): fields[name][is_kept[is_run], i] for i, side in sides for name in fields}
        output = self.loss(**{name: tensors[name] for name in self.loss.inputs})
        loss = (output.losses * inputs["weight"][is_kept]).sum() / len(is_kept)

        mode = "train" if self.model.training else "eval"
        sums, margins = self._sums[mode], output.chosen_rewards - output.rejected_rewards
        means = {"chosen": output.chosen_rewards, "rejected": output.rejected_rewards}
        for name, values in (means | {"accuracies": margins > 0, "margins": margins}).items():
            sums.add(f"rewards/{name}", values.sum(), len(values))
        sums.add("entropy", masked.total(entropies.detach(), mask).sum(), mask.sum())
        if self.aux_loss_enabled:
            sums.add("aux_loss", aux_loss, 1)
            loss = loss + self.router_aux_loss_coef * aux_loss
        if mode == "eval":
            self._close(mode)
        return loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self._close("train")
        return loss

    def _close(self, mode: str) -> None:
        """Close the sums of an optimizer step: one mean over all its pairs, or completions, and processes."""
        for name, value in self._sums[mode].reduce(self.accelerator).means().items():
            self._metrics[mode][name].append(value)
        self._sums[mode] = MeanMetrics()


def refuse(args: Any, model: Any, sources: list, given: dict[str, Any]) -> None:
    """TypeError for another configuration, ValueError for settings that cannot work; no weights are loaded yet."""
    if not isinstance(args, OnlinePreferenceConfig):
        raise TypeError(f"OnlinePreferenceTrainer takes an OnlinePreferenceConfig, not a {type(args).__name__}.")
    if not sources and args.reward_adapter is None:
        raise ValueError(
            "There is no source of reward to tell the better completion by: give `reward_funcs` (functions, or a sequence "
            "classifier), or `reward_adapter`, the folder of a reward model trained as an adapter."
        )
    if given.get("peft_config") is None and not lora.has_adapter(model):
        raise ValueError(
            "Policy and reference share one base, told apart by an adapter: give `peft_config` (a LoraConfig), or a model "
            "with an adapter."
        )
    if isinstance(given.get("processing_class"), ProcessorMixin):
        raise ValueError("Pairs are cut from text alone, and this is a vision-language processor: give a tokenizer.")
    if args.deepspeed_plugin is not None or args.fsdp:
        raise ValueError("DeepSpeed and FSDP shard the base model: launch with plain `accelerate launch --multi_gpu`.")
    for adapter in model.peft_config.values() if lora.has_adapter(model) else [given["peft_config"]]:
        fresh = lora.takes_from_the_base(given.get("peft_config"))
        if fresh is not None or getattr(adapter, "bias", "none") != "none":
            raise ValueError(
                "The adapter changes the base itself (`init_lora_weights`, `bias`), which switching it off does not undo: the "
                "reference would be another model. Leave both at their defaults."
            )
        if args.use_vllm:
            merged_weights.check(adapter)
