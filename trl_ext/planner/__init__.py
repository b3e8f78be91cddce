"""Know before you run: what a recipe takes on a card, from its model's config.json alone.

`models` and `configs` find the configuration, `counting` counts the model on the meta device, `memory` is the
arithmetic, `fitting` chooses rows and recomputed layers, `cards` knows rates, `vram_plan` puts it together, and `exact`
checks the arithmetic by a training step on fake tensors.
"""

from trl_ext.planner.vram_plan import VramPlan, plan, refuse

__all__ = ["VramPlan", "plan", "refuse"]
