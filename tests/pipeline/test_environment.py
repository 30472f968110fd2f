"""What Ray, OpenMP and glibc find in the environment."""

import os
from types import SimpleNamespace

import pytest

from pipeline import environment
from pipeline.environment import MALLOC, OPENMP, SHORT_WAIT, UNWATCHED, for_processes, setting


@pytest.fixture
def bare_environment(monkeypatch):
    """No user's settings for memory, threads and Ray's own logs."""
    for name in MALLOC | UNWATCHED | OPENMP:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", SHORT_WAIT)  # as importing `pipeline` has left it


@pytest.mark.usefixtures("bare_environment")
def test_processes_of_a_local_ray_keep_memory_and_may_wait_long_and_what_is_set_is_left_alone(monkeypatch):
    monkeypatch.setattr(environment, "_has_libgomp", lambda: True)
    everything = MALLOC | UNWATCHED | OPENMP
    assert for_processes(is_watched=False) == everything
    assert for_processes(is_watched=True) == MALLOC | OPENMP
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    monkeypatch.setenv("GOMP_SPINCOUNT", "20000")
    kept = {"MALLOC_ARENA_MAX", *OPENMP}
    expected = {name: value for name, value in everything.items() if name not in kept}
    assert for_processes(is_watched=False) == expected
    monkeypatch.setenv("GOMP_SPINCOUNT", SHORT_WAIT)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert for_processes(is_watched=False) == expected


@pytest.mark.usefixtures("bare_environment")
@pytest.mark.parametrize(
    ("library", "is_known"),
    [("torch/lib/libgomp.so.1", True), ("torch.libs/libgomp-a34b3233.so.1", True), ("torch/lib/libiomp5.so", False)],
)
def test_threads_are_told_to_be_active_only_if_their_openmp_is_libgomp(monkeypatch, tmp_path, library, is_known):
    for file in (tmp_path / "torch/__init__.py", tmp_path / library):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    torch_there = SimpleNamespace(origin=str(tmp_path / "torch/__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", {"torch": torch_there}.get)
    assert ("OMP_WAIT_POLICY" in for_processes(is_watched=False)) == is_known


@pytest.mark.usefixtures("bare_environment")
def test_what_rays_processes_get_this_process_has_only_meanwhile():
    before = dict(os.environ)
    with setting({"GOMP_SPINCOUNT": "7", "MALLOC_ARENA_MAX": "1"}):
        assert dict(os.environ) == before | {"GOMP_SPINCOUNT": "7", "MALLOC_ARENA_MAX": "1"}
    assert dict(os.environ) == before
