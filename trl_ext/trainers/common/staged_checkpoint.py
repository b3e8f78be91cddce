"""Save checkpoints atomically, and report what changed when a run is resumed.

Difference from transformers: all processes write a checkpoint into `trl_ext.checkpoints.staging.FOLDER`; it is listed in a
manifest, synced and renamed. Only then are older checkpoints removed and is it pushed to the Hub. A process killed at any
moment leaves the previous checkpoint, and a staging folder that is never resumed from.
"""

import contextlib
import math
import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers.trainer_utils import rotate_checkpoints

from trl_ext.checkpoints import changes, found, manifest, staging
from trl_ext.support.errors import UserError
from trl_ext.support.sharded import is_sharded, trained_weights
from trl_ext.trainers.common import paged_states, provenance, publishing
from trl_ext.trainers.common.console import say
from trl_ext.trainers.common.processes import of_main_process
from trl_ext.trainers.common.rates import Rates


class StagedCheckpoint:
    """Mixin before any trainer of TRL's, and before mixins of ours that write into a checkpoint.

    Overrides `train`, `save_model`, `_save_checkpoint`, `_evaluate`, `_determine_best_metric`, `_get_output_dir`,
    `_push_from_checkpoint`, `push_to_hub`, `_init_training_state`, `_load_from_checkpoint`, `_load_optimizer_and_scheduler`,
    `_load_rng_state` and `_load_scaler`.

    Attributes:
        recipe_digest: Digest of the recipe, for the manifest, set by whoever builds the trainer.
        trained_seconds: Training time in seconds; a resume continues counting.
    """

    recipe_digest: str | None = None
    _staging: Path | None = None  # while a checkpoint is written
    _checked: str | None = None  # a checkpoint that may be resumed
    _lacks_metric = False  # an evaluation did not have the metric for the best checkpoint
    _began = 0.0  # when `train` did, on the monotonic clock
    _seconds_before = 0.0

    @property
    def trained_seconds(self) -> float:
        """Seconds of training, the reference pass included, in this and all earlier parts of a run that was resumed."""
        return self._seconds_before + time.monotonic() - self._began

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `train`.

        Raises:
            UserError: The checkpoint is incomplete or of a run with other settings, or the disk is full.
        """
        run = Path(self.args.output_dir)
        checkpoint = found.require_latest(run) if resume_from_checkpoint is True else resume_from_checkpoint or None
        if checkpoint is None:
            self._described, self._seconds_before = self._provenance(), 0.0
        else:
            checkpoint = str(checkpoint)
            self.check_resume(checkpoint)
            self._seconds_before = self._seconds_of(Path(checkpoint))
        self._checked = None
        self._began = time.monotonic()
        if self.args.should_save:
            staging.clear(run)
        return super().train(checkpoint, *args, **kwargs)

    # Saving -----------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        staged = run / staging.FOLDER / f"checkpoint-{self.state.global_step}"
        with self._room_on_disk(run):
            if self.args.should_save:
                staging.clear(run)
                staged.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self._staging = staged.parent
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()
            self._name_best_checkpoint(run)
            if self.args.should_save:
                self.state.save_to_json(str(staged / manifest.STATE))
                facts = {"step": self.state.global_step, "seconds": round(self.trained_seconds, 3)}
                manifest.write(staged, {**facts, **self._described})
                staging.publish(staged, run / staged.name)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run / staged.name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers', which with FSDP would gather all weights of the base: here only the trained ones are gathered."""
        if not is_sharded(self.accelerator):
            super().save_model(output_dir, _internal_call)
            return
        weights = trained_weights(self.model)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        try:
            return super()._evaluate(*args, **kwargs)
        except KeyError as error:  # a schedule that follows the metric
            if "metric_for_best_model" not in str(error):
                raise
            return dict(self.state.log_history[-1])  # where the metrics were logged

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As transformers'. An evaluation without the metric is reported, and its checkpoint is not lost."""
        metric = self.args.metric_for_best_model
        if metric is None:
            return super()._determine_best_metric(metrics, trial)
        value = metrics.get(metric if metric.startswith("eval_") else f"eval_{metric}")
        if value is not None and not math.isnan(value):
            return super()._determine_best_metric(metrics, trial)
        if not self._lacks_metric:
            self._lacks_metric = True
            has = ", ".join(name for name, value in metrics.items() if name.startswith("eval_") and value is not None)
            say(
                self.accelerator,
                f"Step {self.state.global_step}: the evaluation has no value of {metric} (`metric_for_best_model`), so its "
                f"checkpoint cannot be compared with others. It has {has}. Training continues, and checkpoints are saved.",
            )
        return True  # for `save_strategy: best`

    def _get_output_dir(self, trial: Any) -> str:
        # Alone in the staging folder, a checkpoint is the newest there, so transformers rotates nothing.
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:  # else it will be renamed under the upload
            with publishing.of_run(self.args.output_dir):
                super()._push_from_checkpoint(checkpoint_folder)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers', which would upload all files of the run's directory."""
        with publishing.of_run(self.args.output_dir):
            return super().push_to_hub(*args, **kwargs)

    def _name_best_checkpoint(self, run: Path) -> None:
        """Record the best checkpoint under its final name; transformers recorded the staging path."""
        best = self.state.best_global_step
        folder = run / f"checkpoint-{best}"
        if best and (best == self.state.global_step or folder.is_dir()):
            self.state.best_model_checkpoint = str(folder)

    @contextlib.contextmanager
    def _room_on_disk(self, run: Path) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not staging.is_disk_full(error):
                raise
            staging.clear(run)
            kept = found.latest(run)
            size = shutil.disk_usage(run).free
            resume = f"Free some space and resume {kept}, which is complete, with `resume_from_checkpoint`"
            again = "There is no earlier checkpoint: free some space and start again"
            raise UserError(
                f"There is no room on the disk for the checkpoint of step {self.state.global_step} in {run} "
                f"({size / 2**20:,.0f} MiB free), so the run was stopped. {resume if kept else again}."
            ) from error

    # Resuming ---------------------------------------------------------------------------------------------------

    @property
    def _may_change(self) -> bool:
        return getattr(self.args, "resume_changed", False)  # TRL's own configurations do not have it

    def check_resume(self, resume_from_checkpoint: str) -> None:
        """Refuse a checkpoint that is incomplete or of another run, and print harmless differences.

        `train` calls it; call it earlier to fail earlier.

        Raises:
            UserError: See above.
        """
        if resume_from_checkpoint == self._checked:
            return
        checkpoint = Path(resume_from_checkpoint)
        found.require_whole(checkpoint)
        if skipped := found.passed_over(checkpoint):
            say(
                self.accelerator, f"resuming {checkpoint.name}; newer checkpoints are incomplete: {', '.join(skipped)}"
            )
        self._refuse_other_sharding(checkpoint)
        if not manifest.has_optimizer(checkpoint):
            say(
                self.accelerator,
                f"resuming {checkpoint.name}, which holds only weights (`save_only_model`): the optimizer and the learning-rate "
                "schedule start again from the beginning",
            )
        self._described = self._provenance()
        was = manifest.read(checkpoint)
        if was and (notes := changes.judge(checkpoint, was, self._described, is_allowed=self._may_change)):
            say(self.accelerator, notes)
        self._checked = resume_from_checkpoint

    def _refuse_other_sharding(self, checkpoint: Path) -> None:
        """UserError if only one of run and checkpoint is sharded by FSDP, which reads back its own files only."""
        sharded = is_sharded(self.accelerator)
        if sharded != any(checkpoint.glob(manifest.SHARDED_WEIGHTS)):
            was, now = ("without", "with") if sharded else ("with", "without")
            raise UserError(
                f"{checkpoint} was written {was} FSDP and cannot be resumed {now} it. Start the run {was} FSDP, or train the adapter "
                f"in {checkpoint} further in a new run: `model_name_or_path: {checkpoint}`."
            )

    def _seconds_of(self, checkpoint: Path) -> float:
        if (seconds := manifest.read(checkpoint).get("seconds")) is None:
            say(
                self.accelerator,
                f"{checkpoint.name} does not record its training time: `seconds` in the metrics count from this resume",
            )
        return seconds or 0.0

    def _provenance(self) -> dict[str, Any]:
        described = provenance.of_run(self) | {"recipe": self.recipe_digest}
        # FSDP may load the weights on the main process alone, and has not sent them to the others yet.
        return of_main_process(self.accelerator, described)

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, num_train_epochs: int, *args: Any
    ) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(max_steps, steps_per_epoch, num_train_epochs, *args)
        self.state.compute_steps(self.args, max_steps)  # this run's settings decide how often to log and save
        if self.state.global_step < max_steps:
            return epochs, batches
        # A run that ended before it wrote its result: transformers would train one step beyond the last.
        say(self.accelerator, f"step {self.state.global_step} is the last step of the run: nothing is left to train")
        return num_train_epochs, 0

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with _reading(resume_from_checkpoint, "weights"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        given = Rates(self.optimizer, self.lr_scheduler)
        with _reading(checkpoint, "optimizer or learning-rate schedule"), paged_states.kept(self.optimizer):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._may_change:
            given.apply(self.optimizer, self.lr_scheduler)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _reading(checkpoint, "random state"):
            super()._load_rng_state(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _reading(checkpoint, "gradient scaler"):
            super()._load_scaler(checkpoint)


@contextlib.contextmanager
def _reading(checkpoint: str | None, what: str) -> Iterator[None]:
    """Inside, a file that cannot be read, or that could run code when read, becomes a `UserError`."""
    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{checkpoint} cannot be resumed: the file of its {what} contains more than tensors and numbers. Such a file could "
            "run code and is never loaded. Resume a checkpoint from a source you trust, or start a new run."
        ) from error
    except (RuntimeError, ValueError, KeyError, EOFError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:") if str(error).strip() else type(error).__name__
        raise UserError(
            f"{checkpoint} cannot be resumed: its {what} cannot be loaded ({reason}). Resume another checkpoint, or start "
            "a new run."
        ) from error
