import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
OURS = {"pipeline", "pixcon_core", "tune_spaces"}
MAY_IMPORT = {"tune_spaces": {"tune_spaces"}, "pixcon_core": {"pixcon_core"}, "pipeline": OURS}
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in sorted(OURS)
    for file in sorted((ROOT / package).rglob("*.py"))
]


def imported_packages(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_go_one_way(package):
    allowed = MAY_IMPORT[package] | ({"ray"} if package == "pipeline" else set())
    for file in (ROOT / package).rglob("*.py"):
        wrong = (set(imported_packages(file)) & (OURS | {"ray"})) - allowed
        assert not wrong, f"{file} imports {wrong}"


def test_every_module_imports_without_doing_work(tmp_path):
    code = f"""
import importlib, os, sys, threading
for name in {MODULES!r}:
    importlib.import_module(name)
ray = sys.modules["ray"]
assert not ray.is_initialized(), "Ray was started"
assert not os.listdir("."), os.listdir(".")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:pixcon", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_data_workers_and_help_do_without_torch(tmp_path):
    code = """
import sys
import pixcon_core.data.transforms, pixcon_core.presets, pipeline.options
import pipeline.evaluate, pipeline.evaluate_command, pipeline.predict
print("torch" in sys.modules, "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "address", [{}, {"RAY_ADDRESS": ""}, {"RAY_ADDRESS": "local"}], ids=["no-address", "empty-address", "local"]
)
def test_a_local_ray_listens_on_localhost_only_whatever_is_imported_first(address):
    # Ray reads this from the environment once, when it is imported.
    code = """
import os
import pipeline.journey, ray._private.ray_constants as constants
print(constants.ENABLE_RAY_CLUSTER, "RAY_ADDRESS" in os.environ)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | address
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
