"""Runs: execute a recipe, resume it, lock its directory, stop it by a signal, load a finished one."""
