"""The embedded demo: a tiny pretrained chat model and preference pairs with a known reward.

`model_name_or_path: embedded` and `dataset_name: embedded` in a recipe mean the two folders below.
"""

from pathlib import Path

EMBEDDED = "embedded"
MODEL = Path(__file__).parent / "model"
DATA = Path(__file__).parent / "data"
