"""Search the settings of a recipe with Optuna: the best held-out measure at a bounded KL, within a given time.

`space` turns ranges into the settings of a trial, `study` is the storage with sampler and pruner, `trial` trains and measures one
setting, `rungs` measures it on the way and stops it, `clock` says whether another one fits, `loop` carries trials out, and `result`,
`page` and `report` present them.
"""
