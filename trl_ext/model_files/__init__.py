"""Read the folders of models and adapters without importing anything heavy.

`model` and `reward` report what is wrong with a model and with a reward adapter; `adapter`, `modules` and `weights` read their
files; `available` checks that a model is here or can be downloaded.
"""
