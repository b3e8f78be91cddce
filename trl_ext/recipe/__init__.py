"""Load recipes: one YAML file of flat keys that says what to train, on which data, and how.

Keys are TRL's and transformers' own (what works with `trl dpo --config` works here), plus `loss`,
`loss_kwargs`, `variants`, and what `trl_ext.recipe.extras` and `trl_ext.trainers.preference.config` define.
"""

from trl_ext.recipe.load import load
from trl_ext.recipe.resolved import Recipe
from trl_ext.recipe.vocabulary import known_keys

__all__ = ["Recipe", "known_keys", "load"]
