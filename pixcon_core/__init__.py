"""The method: pixel contrast, models, data sets and metrics in plain PyTorch."""
