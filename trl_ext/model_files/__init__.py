"""What the folders of models and adapters hold, told from their files before anything heavy is imported.

`model` and `reward` say what is wrong with a model and with a reward adapter; `adapter` and `weights` read what they go by.
"""
