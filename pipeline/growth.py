"""What Ray has, and what it would have with all nodes that its autoscaler may start; it may begin without a GPU."""

import os

import ray

GROWS_TO = "PIXCON_GROWS_TO"
"""Environment variable with all that an autoscaled cluster can have, as `CPU=36,GPU=4`."""


class TooSmallError(ValueError):
    """The cluster has not what is asked for."""

    def __init__(self, text: str) -> None:
        joining = " If machines are still to join the cluster, wait until `ray status` shows them."
        super().__init__(text + (joining if "RAY_ADDRESS" in os.environ else ""))


def reachable_resources() -> dict[str, float]:
    """Return how much of each resource there is, or could be, whichever is more.

    An autoscaler starts nodes when something waits for what they have; whoever looked only at the nodes that are there
    would never ask. Ray does not tell what a cluster may grow to, so the cluster's own description sets `GROWS_TO`.

    Raises:
        ValueError: If that variable cannot be read.
    """
    there = dict(ray.cluster_resources())
    return there | {name: max(there.get(name, 0.0), amount) for name, amount in _possible().items()}


def may_grow() -> bool:
    """Return whether nodes may come that are not there yet."""
    there = ray.cluster_resources()
    return any(amount > there.get(name, 0.0) for name, amount in _possible().items())


def _possible() -> dict[str, float]:
    text = os.environ.get(GROWS_TO, "")
    try:
        pairs = [part.split("=") for part in text.split(",") if part.strip()]
        return {name.strip(): float(amount) for name, amount in pairs}
    except ValueError:
        raise ValueError(
            f"{GROWS_TO} must be what the cluster has when all of its nodes are there, such as CPU=36,GPU=4, but is"
            f" {text!r}."
        ) from None
