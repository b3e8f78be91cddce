"""Train losses, betas and seeds on one loaded base, and compare the runs on beta-independent measures.

`grid` lists the runs, `training` trains them one after the other, `evaluator` evaluates each on the same data, `results`
extracts the numbers, and `page`, `pictures` and `report` present them side by side.
"""
