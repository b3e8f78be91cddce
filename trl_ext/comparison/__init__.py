"""Losses, betas and seeds on equal terms: one grid on one loaded base, measured in units that depend on no loss.

`grid` says which runs there are, `training` trains them one after the other, `measure` judges each by what its policy
does, `pictures` and `page` show them side by side.
"""
