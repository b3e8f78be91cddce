"""How a model says that its weights were dequantised when it was loaded, which its card repeats."""

DEQUANTISED_BY = "_trl_ext_dequantised_by"
"""Attribute of such a model: the name of the class of transformers' settings for it."""
