"""Show and check training data as its trainer sees it: token ids, what is cut or dropped, what is learned from.

Files: ``tokenise`` makes token ids by TRL's own code without a model, ``tokenise_images`` those of examples with images;
``truncation`` cuts as the trainers do; ``facts`` reduces every example to a few numbers (reading ``token_lists``); ``findings``
counts them, words them with ``finding_sentences`` and refuses data that teaches nothing; ``missing`` compares what messages say
with their tokens, ``nothing_left`` refuses data of which too little is left, ``parts`` messages with images for a
model that reads text only; ``model_files`` reads which tokens end a
sequence; ``special_tokens`` checks that a tokenizer fits its model; ``check`` does all this before a run. For `trl-ext data`,
``report`` adds ``layout`` (tokens of padded and packed batches), ``rendering`` (one example with its loss mask) and ``picture``
(histograms of lengths).
"""
