"""Drawn scenes in the layouts of the real data sets: to try, test and compare methods without a download."""
