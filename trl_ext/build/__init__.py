"""What `trl_ext.build.trainer` puts a trainer together from: each file makes one part of it from the recipe.

`dtypes` of weights and arithmetic, `processing` of text, `model` with its adapter, for which `lora_targets` are checked.
`refusals` says in a sentence what only the constructed trainer can tell.
"""
