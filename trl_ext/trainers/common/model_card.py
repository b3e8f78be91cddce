"""Write the model card of a run, whenever a trainer saves."""

import json
import os
from pathlib import Path
from typing import Any

from trl_ext import losses
from trl_ext.checks import objective
from trl_ext.report import card, card_blocks

TAGS = ("generated_from_trainer",)
"""Tags of every card of TRL's."""


class ModelCard:
    """Mixin before a TRL trainer; overrides `create_model_card`.

    Attributes:
        card_facts: Extra lines for the model card (dataset, recipe), set by whoever builds the trainer.
        card_tags: Tags on the Hub besides those of the trainer's class.
    """

    card_facts: dict[str, Any] = {}  # noqa: RUF012
    card_tags: tuple[str, ...] = ()

    def card_method(self) -> dict[str, str]:
        """Rows of the card: the method and its settings."""
        raise NotImplementedError

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: Any = None
    ) -> None:
        if not self.is_world_process_zero():
            return
        directory = Path(self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        given = [tags] if isinstance(tags, str) else tags or []
        of_place = ["hf_jobs"] if "JOB_ID" in os.environ else []
        all_tags = [*TAGS, *self._tag_names, *self.card_tags, *given, *of_place]
        text = card.render(self, model_name or directory.name, dataset_name, all_tags, objective.changes_of(self.args))
        card_blocks.rewrite(directory / "README.md", text)


def card_of_loss(loss: losses.Loss | losses.Mix, reference: str, changed_by: str | None) -> dict[str, str]:
    """Rows of the card about a loss on preferences, its reference, and the method that changes it, if one does."""
    return {
        **({"loss changed by": f"`{changed_by}`"} if changed_by else {}),
        "reference policy": reference,
        "loss": f"`{loss.name}`: {loss.formula}" + (f" ({loss.paper})" if loss.paper else ""),
        "loss hyperparameters": f"`{json.dumps(loss.hyperparameters)}`",
        "notation": losses.NOTATION,
    }
