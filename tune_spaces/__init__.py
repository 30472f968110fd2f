"""Search spaces: which settings move, in what range. Names of settings only, nothing of ours is imported."""
