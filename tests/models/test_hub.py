"""Weights from the hub, with a hub of our own or none; in processes of their own, since its client reads the
environment when it is imported."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import timm
import torch
from safetensors.torch import save_file

from pixcon_core.config import ModelConfig
from pixcon_core.models import fetch_pretrained

pytestmark = pytest.mark.slow

SCRIPT = """
import json, time
from pixcon_core.config import ModelConfig
from pixcon_core.models import build_segmentor, fetch_pretrained

def never(seconds):
    raise AssertionError(f"waits {seconds} s to try again")

time.sleep = never
config = ModelConfig(backbone="resnet10t", pretrained="true")
said = []
for _ in range(ROUNDS):
    try:
        fetch_pretrained(config)
        said.append("fetched")
    except ValueError as error:
        said.append(str(error))
if said[-1] == "fetched":
    said.append(build_segmentor(config, 5).backbone.state_dict()["conv1.0.weight"].sum().item())
print(json.dumps(said))
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_process(rounds, endpoint, cache, **environment):
    hidden = ("HF_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "TRANSFORMERS_OFFLINE")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(hidden)}
    # Xet is another transport, for which our hub is too small.
    kept |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment}
    script = SCRIPT.replace("ROUNDS", str(rounds))
    done = subprocess.run([sys.executable, "-c", script], env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def weights():
    torch.manual_seed(1)
    return timm.create_model("resnet10t").state_dict()


@pytest.fixture
def hub(weights, tmp_path):
    """A hub that answers the first request with an error, then serves the weights, once; then errors again."""
    save_file(weights, tmp_path / "served.safetensors")
    content = (tmp_path / "served.safetensors").read_bytes()
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            if not self.path.endswith("/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"):
                self.send_error(404)  # its client also asks for things of its own
                return
            served = len(seen) > 0 and "GET" not in seen
            seen.append(self.command)
            body = content if served else b""
            self.send_response(200 if served else 500)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"weights"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = answer  # noqa: N815

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()


def fill(cache, weights):
    """Lay weights into a cache as the hub's client does."""
    folder = cache / "hub" / "models--timm--resnet10t.c3_in1k"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    save_file(weights, folder / "snapshots" / COMMIT / "model.safetensors")


def test_without_network_it_ends_at_once_and_says_what_to_do(tmp_path):
    (said,) = in_process(1, "http://127.0.0.1:1", tmp_path)
    assert said.startswith("model.pretrained=true: the weights of resnet10t could not be fetched (")
    assert "refused" in said
    assert "Download model.safetensors of https://huggingface.co/timm/resnet10t.c3_in1k" in said
    assert "\n" not in said


def test_without_network_weights_in_the_cache_are_taken(tmp_path, weights):
    fill(tmp_path, weights)
    fetched, total = in_process(1, "http://127.0.0.1:1", tmp_path)
    assert fetched == "fetched"
    assert total == pytest.approx(weights["conv1.0.weight"].sum().item(), rel=1e-5)


def test_a_hub_with_an_error_is_asked_once_and_one_that_serves_fills_the_cache(tmp_path, hub, weights):
    endpoint, seen = hub
    error, fetched, total = in_process(2, endpoint, tmp_path)
    assert "500" in error
    assert "--model.pretrained PATH" in error
    assert fetched == "fetched"
    assert total == pytest.approx(weights["conv1.0.weight"].sum().item(), rel=1e-5)
    assert seen.count("GET") == 1, "the second time they come from the cache"


def test_offline_mode_is_kept(tmp_path, hub):
    endpoint, seen = hub
    (said,) = in_process(1, endpoint, tmp_path, HF_HUB_OFFLINE="1")
    assert "offline mode is enabled" in said
    assert seen == []


@pytest.mark.parametrize("pretrained", ["false", "auto"])
def test_nothing_is_fetched_where_nothing_is_asked_for(monkeypatch, pretrained):
    monkeypatch.setattr("pixcon_core.models.backbone.check_hub", lambda backbone: pytest.fail("asks the hub"))
    fetch_pretrained(ModelConfig(backbone="resnet10t", pretrained=pretrained))
