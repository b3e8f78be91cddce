"""The optimizer step is the batch: one step's examples, cut into rows that only memory decides.

`per_device_train_batch_size × gradient_accumulation_steps` examples per process form one batch. It is cut into
rows, each row runs forward and backward, and every example weighs 1/N of the step over all processes. So the
loss, the KTO baseline and the metrics mean the same for any `row_tokens`.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import DataLoader

from trl_ext.batching.padded import Examples
from trl_ext.trainers import step_zero
from trl_ext.trainers.completions import Completions
from trl_ext.trainers.memory import RowsDoNotFitError
from trl_ext.trainers.metrics import MeanMetrics
from trl_ext.trainers.out_of_memory import is_out_of_memory, release
from trl_ext.trainers.rows import Rows
from trl_ext.trainers.step_zero import say

T = TypeVar("T")


class StepIsBatch(Rows):
    """Mixin before a TRL preference trainer.

    It departs from transformers' loop in four places:

    1. the dataloaders hand over examples instead of collated tensors (`_get_dataloader`);
    2. `get_batch_samples` gathers a step's micro-batches into one and leaves empty ones in their place, so that
       step counts, schedules, epochs and resuming stay what they were;
    3. `training_step` runs that batch row by row and reduces gradients and metrics once;
    4. `floating_point_ops` and `_track_num_input_tokens` count from examples.

    Images have to be collated in dataloader workers, so vision data keeps the parent's path throughout (`_compute_loss`);
    `train` settles checkpointing for it, and writes the reference cache out at the end. On several processes accelerate
    repeats examples to fill the last step of an epoch, as everywhere; they count there.

    A subclass provides the methods under "What a subclass provides", here and in `Rows`. Attributes read: `loss`,
    `data_collator`, `_is_vision_dataset`, `_metrics`, `router_aux_loss_coef`, `maybe_activation_offload_context`.
    """

    _is_described = False
    _is_first_step = True
    _ran_out = False  # whether this process was the one whose memory ran out
    _losses: list[tuple[list[dict], torch.Tensor]]  # rows of the step in hand, and the losses of their examples

    # What a subclass provides ---------------------------------------------------------------------------------

    def _score(self, model: nn.Module, batch: dict) -> tuple[dict[str, torch.Tensor], Completions]:
        """Run policy and reference on a collated row: the tensors the loss may read, and the policy's fields."""
        raise NotImplementedError

    def _record(self, sums: MeanMetrics, batch: dict, tensors: dict, fields: Completions, output: Any) -> None:
        """Add a row's metrics to `sums`."""
        raise NotImplementedError

    def _step_tensors(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """Values of the whole step, over all processes, that every row's loss reads."""
        return {}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_vision_dataset and self.args.gradient_checkpointing == "auto":
            # The parent's path has no rows to measure: all layers where memory is scarce, as TRL does.
            self.args.activation_checkpointing = self.args.device.type != "cpu"
        try:
            return super().train(*args, **kwargs)
        finally:
            if self.reference_cache is not None:
                self.reference_cache.flush()

    # Dataloaders ----------------------------------------------------------------------------------------------

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        collator = self.data_collator
        if not self._is_vision_dataset:
            self.data_collator = Examples
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator = collator

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple:
        if self._is_vision_dataset:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, None
        examples = Examples(example for batch in batches for example in batch)
        return [Examples()] * (len(batches) - 1) + [examples], None

    # The step -------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        if self._is_vision_dataset:
            return super().training_step(model, inputs, num_items_in_batch)
        if not inputs:
            return torch.zeros((), device=self.args.device)
        # Rows run on the bare model: each process may have another number of them, so gradients are summed by
        # hand once at the end instead of by DDP in every backward.
        self.model.train()
        if hasattr(self.optimizer, "train") and callable(self.optimizer.train):
            self.optimizer.train()  # schedule-free optimizers
        # A stream may end in the middle of a step, which then never reached the optimizer.
        self.model.zero_grad()
        if not self._is_described:
            self._is_described = True
            step_zero.announce(self)
        with self.maybe_activation_offload_context:
            sums = self._until_it_fits(self._backward, list(inputs))
        self._sum_gradients()
        loss = self._finish(sums, "train")
        # The mean over all processes on each of them: transformers averages what they return.
        return torch.tensor(loss, device=self.args.device)

    def _compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False) -> torch.Tensor:
        """Mean loss of one collated micro-batch: the parent's path, on which vision data runs."""
        if return_outputs:
            raise ValueError("The logits are never built here: call the trainer with `return_outputs=False`.")
        tensors, fields = self._score(model, inputs)
        output = self._evaluate_loss(tensors)
        losses = self._weighted(output.losses, fields)
        sums = MeanMetrics()
        sums.add("loss", losses.sum(), len(losses))
        self._record(sums, inputs, tensors, fields, output)
        self._finish(sums, "train" if self.model.training else "eval")
        return losses.mean() + self._aux_loss(fields, 1.0)

    def _finish(self, sums: MeanMetrics, mode: str) -> float:
        """Reduce a step's sums over processes, keep its metrics for the next log, return its mean loss."""
        means = sums.reduce(self.accelerator).means()
        loss = means.pop("loss")
        if mode == "train" and not math.isfinite(loss):
            return loss  # for `trl_ext.trainers.finite` to judge; it measures nothing
        if mode == "train" and self._is_first_step:
            self._is_first_step = False
            if self.state.global_step == 0:
                step_zero.check(self, loss)
        self._keep(sums, means, mode)
        return loss + (self.router_aux_loss_coef * means["aux_loss"] if self.aux_loss_enabled else 0.0)

    def _keep(self, sums: MeanMetrics, means: dict[str, float], mode: str) -> None:
        """Add means to TRL's history of `mode`; tokens are a running total there."""
        history = self._metrics[mode]
        if mode == "train":
            self._total_train_tokens += int(sums.total("num_tokens"))
        means["num_tokens"] = self._total_train_tokens
        history.pop("num_tokens", None)
        for name, value in means.items():
            history[name].append(value)

    def _until_it_fits(self, run: Callable[[list[dict], MeanMetrics], None], examples: list[dict]) -> MeanMetrics:
        """Run a step; where memory runs out on any process, halve its rows and run the same step again.

        Args:
            run: Runs the examples row by row and adds their metrics to the sums it is given.
            examples: The examples of this process.

        Raises:
            torch.OutOfMemoryError: A row of a single example does not fit.
        """
        state = _random_state()
        while True:
            sums = MeanMetrics()
            try:
                run(examples, sums)
                return sums
            except RowsDoNotFitError:
                pass
            # Outside the handler, so that no traceback keeps the failed attempt's activations alive.
            self.model.zero_grad(set_to_none=True)
            release()
            self._make_room(examples)
            _restore_random_state(state)

    def _make_room(self, examples: list[dict]) -> None:
        """Recompute more where a single example is the trouble, else halve the rows, on the processes that ran out."""
        rows = self._rows(examples)
        largest = max(rows, key=self._row_size)
        recomputes = self._ran_out and len(largest) == 1 and self._recompute_everything()
        if self._on_any_process(self._ran_out and not recomputes and len(rows) == len(examples)):
            raise torch.OutOfMemoryError(
                f"Out of memory with a single example of up to {self._row_size(largest):,} tokens in a row. Lower "
                "`max_length` or `lora_r`, or free memory on the device."
            )
        if self._ran_out and not recomputes:
            self._row_budget = self._row_size(largest) // 2
        what = "all layers are recomputed" if recomputes else f"rows of at most {self.row_tokens} tokens"
        if self.accelerator.num_processes > 1:
            what = "rows are halved, or all layers recomputed, where that happened"  # this may be another process
        say(self, f"out of memory: {what} from here on, again")

    def _on_any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), "sum").item())

    def _locally(self, work: Callable[[], T]) -> T:
        """Run rows without talking to other processes, then find out whether memory ran out on any of them.

        Raises:
            RowsDoNotFitError: On every process, so that none waits for one that gave up.
        """
        result, fits = None, False
        try:
            result, fits = work(), True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._ran_out = not fits
        if self._on_any_process(not fits):
            raise RowsDoNotFitError
        return result

    def _backward(self, examples: list[dict], sums: MeanMetrics) -> None:
        """Accumulate the gradient of the step's mean loss, this process's share of it."""
        self._losses = []
        self._prepare_rows(examples)
        count = torch.tensor(float(len(examples)), device=self.args.device)
        total = self.accelerator.reduce(count, reduction="sum").item()
        shared = self._step_tensors(examples)
        rows = self._rows(examples)
        if self.loss.coupled and (len(rows) > 1 or self.accelerator.num_processes > 1):
            self._backward_coupled(rows, total, shared, sums)
        else:
            self._locally(lambda: self._backward_rows(rows, total, shared, sums))

    def _backward_rows(self, rows: list, total: float, shared: dict, sums: MeanMetrics) -> None:
        for row in rows:
            self._checkpoint_for(row)
            batch = self._collate(row)
            with self.compute_loss_context_manager():
                tensors, fields = self._score(self.model, batch)
                tensors |= shared
                output = self._evaluate_loss(tensors)
                losses = self._weighted(output.losses, fields)
                loss = losses.sum() / total + self._aux_loss(fields, len(row) / total)
            self.accelerator.backward(loss)
            self._losses.append((row, losses.detach()))
            sums.add("loss", losses.sum(), len(row))
            self._record(sums, batch, tensors, fields, output)

    def _backward_coupled(self, rows: list, total: float, shared: dict, sums: MeanMetrics) -> None:
        """The step of a loss that compares examples with each other, when it takes more than one row.

        The rows run once without gradient to gather the loss's inputs over the whole step, the loss is
        differentiated with respect to them, and the rows run again with that gradient: the one case in which
        tokens are computed twice.
        """
        generators = []

        def score_all() -> list[dict[str, torch.Tensor]]:
            scored = []
            with torch.no_grad(), self.compute_loss_context_manager():
                for row in rows:
                    generators.append(_random_state())
                    scored.append(self._score(self.model, self._collate(row))[0])
            return scored

        scored = self._locally(score_all)
        local = {name: torch.cat([tensors[name] for tensors in scored]) for name in scored[0]}
        leaves, mine = self._gather_leaves(local)
        output = self._evaluate_loss({**leaves, **shared})
        policy = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        gradients = torch.autograd.grad(output.losses.sum() / total, list(policy.values()), allow_unused=True)

        def backward_all() -> None:
            start = 0
            for row, state in zip(rows, generators, strict=True):
                stop = start + len(row)
                self._checkpoint_for(row)
                batch = self._collate(row)
                _restore_random_state(state)  # the same dropout masks again
                with self.compute_loss_context_manager():
                    tensors, fields = self._score(self.model, batch)
                    surrogate = self._aux_loss(fields, len(row) / total)
                    for name, gradient in zip(policy, gradients, strict=True):
                        if gradient is not None:
                            surrogate = surrogate + (tensors[name] * gradient[mine][start:stop]).sum()
                self.accelerator.backward(surrogate)
                part = type(output)(*(field[mine][start:stop].detach() for field in output))
                self._losses.append((row, part.losses))
                sums.add("loss", part.losses.sum(), len(row))
                self._record(sums, batch, tensors, fields, part)
                start = stop

        self._locally(backward_all)

    def _gather_leaves(self, local: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], slice]:
        """This process's tensors joined with all others', and where its own lie.

        Tensors that came from the policy get gradients; reference values and lengths do not.
        """
        count = len(next(iter(local.values())))
        mine = slice(0, count)
        if self.accelerator.num_processes > 1:
            parts = gather_object([{name: tensor.cpu() for name, tensor in local.items()}])
            start = sum(len(next(iter(part.values()))) for part in parts[: self.accelerator.process_index])
            mine = slice(start, start + count)
            local = {name: torch.cat([part[name] for part in parts]).to(self.args.device) for name in local}
        leaves = {
            name: tensor.clone().requires_grad_(not name.startswith("ref_") and tensor.is_floating_point())
            for name, tensor in local.items()
        }
        return leaves, mine

    def _evaluate_loss(self, tensors: dict[str, torch.Tensor]) -> Any:
        return self.loss(**{name: tensors[name] for name in self.loss.inputs})

    def _weighted(self, losses: torch.Tensor, fields: Completions) -> torch.Tensor:
        """Per-example weights on top of the loss; none by default."""
        return losses

    def _aux_loss(self, fields: Completions, share: float) -> torch.Tensor | float:
        """A row's share of the mixture-of-experts load-balancing loss, which is not separable over rows."""
        return self.router_aux_loss_coef * share * fields.aux_loss if self.aux_loss_enabled else 0.0

    def _sum_gradients(self) -> None:
        """Sum gradients over processes; every example already weighs 1/N of the whole step."""
        if self.accelerator.num_processes == 1:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters]
        vector_to_parameters(self.accelerator.reduce(parameters_to_vector(gradients), reduction="sum"), gradients)

    # Counters transformers keeps ------------------------------------------------------------------------------

    def floating_point_ops(self, inputs: Any) -> int:
        if self._is_vision_dataset:
            return super().floating_point_ops(inputs)
        tokens = sum(map(self._num_tokens, inputs))
        return 6 * tokens * self.model.num_parameters(exclude_embeddings=True)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        if self._is_vision_dataset:
            super()._track_num_input_tokens(inputs)
        elif self.args.include_num_input_tokens_seen != "no":
            tokens = torch.tensor(sum(map(self._num_tokens, inputs)), device=self.args.device)
            self.state.num_input_tokens_seen += self.accelerator.gather(tokens).sum().item()


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _restore_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
