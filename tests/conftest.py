import os
import signal
import uuid
from pathlib import Path

import pytest
import torch

from pixcon_core.data import make_miniature


def pytest_configure():
    """Compute on one thread, here and in every process that tests start: tensors are small, and two cores have two
    processes of tests already. Threads that wait for one that has no core are many times slower than one alone.

    Credentials for the S3 server of the tests, and for no other; Ray's workers get them from here.

    A shell has its background commands ignore SIGINT, and all that they start; tests send it to what they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    os.environ["OMP_THREAD_LIMIT"] = "1"
    os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def pytest_itemcollected(item):
    """A file's tests stay in one process; those that share a Ray cluster do, all of them, and none of them is quick.

    Soak tests run one at a time: beside others, one that needs all machines of its cluster has failed for lack of one.
    """
    shared = "ray" if shares_ray(item) else item.path.name
    item.add_marker(pytest.mark.xdist_group("soak" if "soak" in item.keywords else shared))
    if shares_ray(item):
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items):
    """Quick tests first, then those that share Ray, then the rest: in one process, and within what xdist hands out.

    xdist itself begins with the files, and with the group that shares Ray, that have the most tests.
    """
    items.sort(key=lambda item: ("slow" in item.keywords, not shares_ray(item)))


def shares_ray(item):
    return "ray_cluster" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def ray_cluster():
    """One small local Ray for all tests that need one."""
    from pipeline.session import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="session")
def s3_server():
    """The address of an S3 server on this machine, which has a bucket of the name `bucket`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=address, region_name="us-east-1").create_bucket(Bucket="bucket")
    yield address
    server.stop()


@pytest.fixture
def s3_url(s3_server):
    """The URL of an empty folder in it."""
    host = s3_server.removeprefix("http://")
    return f"s3://bucket/{uuid.uuid4().hex}?endpoint_override={host}&scheme=http&region=us-east-1"


@pytest.fixture(scope="session")
def tiny_camvid(tmp_path_factory) -> Path:
    """A folder in CamVid's layout: 20 training and 6 validation images of 192x144. Not to be changed."""
    return make_miniature("mini-camvid", tmp_path_factory.mktemp("tiny") / "camvid", num_train=20, num_val=6)


@pytest.fixture(scope="session")
def fresh_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint for CamVid that was never trained, but whose predictions differ from pixel to pixel."""
    from pipeline.training.checkpoint import Meta, save_checkpoint
    from pixcon_core.config import ModelConfig, RunConfig
    from pixcon_core.data import DATASETS
    from pixcon_core.models import build_segmentor, normalization

    spec = DATASETS["camvid"]
    config = ModelConfig(backbone="resnet10t", pretrained="false", head_channels=16, projection_dim=16)
    torch.manual_seed(0)
    model = build_segmentor(config, len(spec.classes))
    model.head.classifier[-1].weight.data.mul_(50)
    folder = tmp_path_factory.mktemp("fresh") / "checkpoint"
    folder.mkdir()
    meta = Meta(RunConfig(dataset="camvid", model=config), spec.classes, spec.palette, *normalization(config), 3)
    save_checkpoint(folder, model, meta, {})
    return folder
