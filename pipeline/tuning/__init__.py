"""The parts of a search: trials, where they run, the study, what moves, what is shown."""
