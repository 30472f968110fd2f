"""Search spaces: which settings move, in what range. One module each, by the name that `--space` takes.

A module has one function, `space`. It gets the settings that the search starts from, by their full names
(`contrast.temperature`), so that ranges can grow with them, and returns an Optuna distribution for each setting that
moves. The starting values must lie within: they are always the first trial. Nothing but names of settings is used here.
"""
