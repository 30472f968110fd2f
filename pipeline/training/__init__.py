"""The parts of training: model, optimiser, worker, Ray Train, checkpoints; and many runs at once."""
