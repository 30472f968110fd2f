"""What Ray Train starts beside the workers."""

import ray.train.torch

from pipeline.training.fit import _Trainer


def loop():
    """Train nothing."""


def test_no_process_is_started_for_data_sets_that_there_are_not():
    def names(trainer):
        return {type(one).__name__ for one in trainer(loop)._create_default_callbacks()}

    assert names(ray.train.torch.TorchTrainer) - names(_Trainer) == {"DatasetsCallback"}
