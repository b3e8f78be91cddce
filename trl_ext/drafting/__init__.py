"""Draft a commented recipe from a model, a data file and a card: `trl-ext init`.

`kind` says what the data can train, `usual` holds the usual rates, `choices` derives lengths, batches and steps from the data
and the memory plan, `draft` puts the recipe together, `page` writes it as commented YAML.
"""
