"""Estimate GPU memory and step time of a recipe from its model's config.json, without loading weights.

`models` and `configs` find the configuration, `counting` counts the model on the meta device, `memory` has the formulas,
`fitting` chooses row length and checkpointed layers, `cards` has peak rates of graphics cards, `vram_plan` puts the plan
together, `report` prints it, and `dry_run` checks the formulas with a training step on fake tensors.
"""

from trl_ext.planner.vram_plan import VramPlan, plan, refuse

__all__ = ["VramPlan", "plan", "refuse"]
