"""What a trainer really sees of its data: token ids, what is cut or dropped, what is learned from.

Files: ``tokenise`` makes token ids by TRL's own code and without a model, ``truncation`` cuts as the trainers do,
``facts`` reduces every example to a few numbers, ``findings`` counts and says them and refuses what cannot teach,
``model_files`` reads where sequences end, ``special_tokens`` judges whether a tokenizer fits its model, ``check`` puts these
together before a run. For `trl-ext data` ``report`` adds ``layout`` (padded and packed batches), ``rendering`` (one example
with its loss mask) and ``picture`` (lengths).
"""
