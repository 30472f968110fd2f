"""The journey from a folder of images to a trained, evaluated segmentor, on Ray."""

import pipeline.environment  # noqa: F401 - before whatever comes first of this package imports Ray or PyTorch
