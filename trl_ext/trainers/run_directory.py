"""What a trainer leaves behind: a plain PEFT adapter and a model card that says how it came about."""

import functools
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model

from trl_ext.reference.implicit import FROZEN_COPY
from trl_ext.report import card


class RunDirectory:
    """Mixin before a TRL trainer; overrides `_save` and `create_model_card`.

    Attributes:
        card_facts: Extra lines for the model card (dataset, recipe), set by whoever builds the trainer.
    """

    card_facts: dict[str, Any] = {}  # noqa: RUF012

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save the trained adapter alone: the frozen copy it is compared with is not a result of the run."""
        frozen_copy = is_peft_model(self.model) and FROZEN_COPY in self.model.peft_config
        if frozen_copy:
            self.model.save_pretrained = functools.partial(self.model.save_pretrained, selected_adapters=["default"])
        try:
            super()._save(output_dir, state_dict)
        finally:
            if frozen_copy:
                del self.model.save_pretrained

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None
    ) -> None:
        if not self.is_world_process_zero():
            return
        directory = Path(self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        text = card.render(self, model_name or directory.name, dataset_name, [*self._tag_names, *(tags or [])])
        (directory / "README.md").write_text(text, encoding="utf-8")
