"""The parts of a reproduction: settings, data sets, runs, what they come to, ablations."""
