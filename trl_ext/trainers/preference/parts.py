"""Build the objects that do the work of a preference trainer, and give each what it needs."""

from typing import Any

from trl_ext.trainers.common import packing
from trl_ext.trainers.common.row_memory import RowMemory
from trl_ext.trainers.common.runtime import Runtime
from trl_ext.trainers.preference.batch_loss import BatchLoss
from trl_ext.trainers.preference.evaluation import Evaluation
from trl_ext.trainers.preference.examples import ExampleTokens
from trl_ext.trainers.preference.image_rows import ImageRows
from trl_ext.trainers.preference.metrics import StepMetrics
from trl_ext.trainers.preference.reference_rows import ReferenceRows
from trl_ext.trainers.preference.references import References
from trl_ext.trainers.preference.retry import Retry
from trl_ext.trainers.preference.rows import Rows
from trl_ext.trainers.preference.step import OptimizerStep


def assemble(trainer: Any, own_inputs: str | None) -> None:
    """Set the parts of a trainer, which are attributes of `PreferenceTrainer`.

    Args:
        trainer: After the constructor of its TRL parent.
        own_inputs: See `trl_ext.trainers.preference.construction.own_inputs`.
    """
    args, model, collator = trainer.args, trainer.model, trainer.data_collator
    runtime = Runtime(model, args, trainer.accelerator, trainer.compute_loss_context_manager, trainer._prepare_inputs)
    tokens = ExampleTokens(args, trainer._completions, trainer._columns)
    references = References(
        runtime,
        second_model=trainer.ref_model,
        is_live=trainer._reads_live_reference(),
        own_inputs=own_inputs,
        reads_distributions=trainer.loss.reads_distributions,
    )
    memory = RowMemory(runtime, optimizer=lambda: trainer.optimizer)
    obstacle = packing.obstacle(
        args,
        model,
        has_second_model=trainer.ref_model is not None,
        own_inputs=own_inputs,
        has_aux_loss=trainer.aux_loss_enabled,
    )
    proof = packing.PackingProof(runtime, obstacle)
    rows = Rows(runtime, tokens, memory, proof, collator)
    retry = Retry(runtime, rows, memory)
    trainer.reference_rows = ReferenceRows(runtime, rows, references, memory)
    trainer.runtime, trainer.tokens, trainer.references = runtime, tokens, references
    trainer.memory, trainer.rows, trainer.retry = memory, rows, retry
    objective = trainer.row_objective = trainer._make_objective()
    trainer.step = OptimizerStep(runtime, references, rows, memory, objective, retry)
    trainer.image_rows = ImageRows(runtime, proof, collator, is_paired=len(trainer._completions) > 1)
    trainer.batch_loss = BatchLoss(runtime, references, rows, trainer.image_rows, objective)
    trainer.evaluation = Evaluation(runtime, references, rows, objective, retry)
    trainer.step_metrics = StepMetrics(trainer.accelerator, trainer._metrics, objective, trainer._check_first_step)
