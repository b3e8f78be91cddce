"""What a trainer leaves behind: a plain PEFT adapter and a model card that says how it came about."""

import contextlib
import json
from pathlib import Path
from typing import Any

from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.support import atomic
from trl_ext.trainers.common import lora
from trl_ext.trainers.common.model_card import ModelCard, card_of_loss
from trl_ext.trainers.common.step_zero import reference_of
from trl_ext.trainers.preference import reference_sync

COUNTERS = "trl_ext_counters.json"  # what transformers does not restore: trained tokens, and a reduced row budget


class RunDirectory(ModelCard):
    """Mixin before a TRL trainer; overrides `_save`, `_save_checkpoint`, `_load_from_checkpoint`, `create_model_card`."""

    card_tags = ("preference-optimization",)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the trained adapter alone: the frozen copy it is compared with is not a result of the run."""
        has_copy = lora.has_adapter(self.model) and FROZEN_COPY in self.model.peft_config
        with lora.saved_alone(self.model, "default") if has_copy else contextlib.nullcontext():
            super()._save(output_dir, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Our own files first: transformers writes its state last, and what has one can be resumed from.
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
            counters = {"num_tokens": self._total_train_tokens, "row_budget": self._row_budget}
            atomic.write_json(folder / COUNTERS, counters)
            if self.args.sync_ref_model:
                reference_sync.save(self, folder)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        reference_sync.load(self, Path(resume_from_checkpoint))
        path = Path(resume_from_checkpoint, COUNTERS)
        if path.exists():
            counters = json.loads(path.read_text(encoding="utf-8"))
            self._total_train_tokens, budget = counters["num_tokens"], counters["row_budget"]
            if budget is not None and self.args.row_tokens != "auto":
                budget = min(budget, self.args.row_tokens)  # smaller rows may be why the run is resumed
            self._row_budget = budget

    def card_method(self) -> dict[str, str]:
        return card_of_loss(self.loss, reference_of(self))
