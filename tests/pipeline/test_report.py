"""The page of a reproduction: what is on it, what it says of what is missing, and that a browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from pipeline.data.rows import read_rows, split_rows
from pipeline.data.shard_file import Chunk, ShardInfo, write_shard
from pipeline.data.shards import INDEX, Shards, write_index
from pipeline.data.sources import dataset_spec, find_all_pairs
from pipeline.data.storage import locate
from pipeline.evaluate import Evaluation, save_evaluation
from pipeline.predicting.inference import predict
from pipeline.report import write_report
from pipeline.report.__main__ import main
from pipeline.report.folder import Contents, Dataset, Run, find_shards
from pipeline.report.pictures import best_and_worst
from pipeline.report.scores import confusion
from pipeline.training.checkpoint import Meta, load_segmentor, save_checkpoint
from pixcon_core.config import RunConfig
from pixcon_core.metrics import ImageCounts, confusion_matrix, counts_of, miou_of, scores
from pixcon_core.models import build_segmentor
from pixcon_core.override import override

pytestmark = pytest.mark.slow

CONFIG = {"dataset": "mini-camvid", "model": {"backbone": "resnet10t", "pretrained": "false", "head_channels": 16}}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
VOID_ELEMENTS = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def shards(tiny_camvid, tmp_path_factory):
    """Shards of the tiny images, written without Ray."""
    spec, place = dataset_spec("mini-camvid"), str(tmp_path_factory.mktemp("report") / "shards" / "mini-camvid")
    pairs = find_all_pairs(spec, tiny_camvid)
    chunks = [Chunk(split, f"{split}.parquet", tuple(mine)) for split, mine in pairs.items()]
    written = [write_shard({"id": i}, spec, chunks, place, "mark") for i in range(len(chunks))]
    infos = {chunk.split: [ShardInfo.from_json(one["info"])] for chunk, one in zip(chunks, written, strict=True)}
    write_index(locate(place), spec, "fingerprint", infos)
    return Shards.load(place)


def make_run(folder, shards, method, seed):
    """A run folder with a network of random weights, evaluated."""
    config = override(RunConfig(), CONFIG | {"seed": seed})
    if method == "baseline":
        config = override(config, {"contrast": {"weight": 0.0}})
    torch.manual_seed(10 * seed + len(method))
    model = build_segmentor(config.model, len(shards.classes), projection=method == "contrast")
    for norm in model.modules():  # logits of fresh weights hardly differ from pixel to pixel
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    model.train()(torch.randn(4, 3, 96, 128).repeat_interleave(2, dim=2))
    model.head.classifier[-1].bias.data.zero_()
    (folder / "checkpoint").mkdir(parents=True)
    meta = Meta(config, shards.classes, shards.palette, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), 20)
    save_checkpoint(folder / "checkpoint", model, meta, {})
    loaded = load_segmentor(folder / "checkpoint")
    stored = list(read_rows(shards.folder, split_rows(shards, "val")))
    matrices = [confusion_matrix(predict(loaded, one.image), one.label, len(shards.classes)) for one in stored]
    images = ImageCounts(tuple(one.id for one in stored), np.stack([counts_of(one) for one in matrices]))
    total = np.sum(matrices, axis=0)
    found = Evaluation(scores(total), total, images, np.zeros_like(images.counts), (), ())
    save_evaluation(found, folder)
    result = {
        "dataset": "mini-camvid", "miou": found.scores.miou, "pixel_accuracy": found.scores.pixel_accuracy,
        "per_class_iou": dict(zip(shards.classes, found.scores.per_class_iou, strict=True)),
        "images": len(stored), "steps": 20, "seed": seed, "seconds": 61.0, "images_per_second": 10.0, "skipped": [],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    stored_config = {"preset": "mini-camvid", "config": CONFIG | {"contrast": {"weight": config.contrast.weight}}}
    (folder / "config.json").write_text(json.dumps(stored_config | {"seed": seed}))
    lines = [
        {"step": step, "loss": 2.0, "cross_entropy": 2.0 / step, "contrast": 5.0, "contrast/anchors": 64.0 * (step > 5),
         "contrast/positive_similarity": 0.7, "contrast/negative_similarity": 0.3}
        for step in (5, 10, 15, 20)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return result["miou"]


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    """A reproduction of two seeds, all there but the search."""
    folder = tmp_path_factory.mktemp("out") / "reproduce"
    runs = [
        {"dataset": "mini-camvid", "method": method, "seed": seed, "folder": f"mini-camvid/{method}-seed{seed}"}
        for method in ("contrast", "baseline")
        for seed in (0, 1)
    ]
    miou = {run["folder"]: make_run(folder / run["folder"], shards, run["method"], run["seed"]) for run in runs}
    for run in runs:
        run |= {"state": "done", "reason": ""}
    gain = np.mean([miou[f"mini-camvid/contrast-seed{i}"] - miou[f"mini-camvid/baseline-seed{i}"] for i in (0, 1)])
    difference = {"mean": float(gain), "low": float(gain) - 0.2, "high": float(gain) + 0.2}
    state = {
        "trial": {"name": "3", "dataset": "mini-camvid"}, "preset": "mini-camvid", "seeds": [0, 1],
        "changes": {"contrast.temperature": 0.07}, "search": "gone/search", "steps": {"mini-camvid": 20},
        "datasets": {"mini-camvid": {"data": "miniature", "full_steps": 300, "shards": shards.folder}},
        "absent": {"camvid": "its miniature says it", "cityscapes": "no --data_root"},
        "command": "python -m pipeline.reproduce --trial 3",
        "shortened": True, "versions": {"torch": "2.x"}, "runs": runs,
        "summary": {"mini-camvid": {"difference": difference, "over_seeds": difference}},
    }  # fmt: skip
    (folder / "reproduce.json").write_text(json.dumps(state))
    rows = [{"label": "0.05", "changes": {"contrast.temperature": 0.05}, "miou": [0.3, 0.4], "mean": 0.35, "std": 0.07}]
    ablation = {"ablation": "temperature", "dataset": "mini-camvid", "seeds": [0, 1], "rows": rows}
    (folder / "ablation-temperature.json").write_text(json.dumps(ablation))
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_pixels():
    """Draw few pixels, for maps that are made quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.report.separation.FROM_EACH", 2)
        yield


@pytest.fixture(scope="module")
def page(whole):
    return write_report(whole).read_text()


class Outline(HTMLParser):
    """Checks a page as it reads it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.headings, self.faults, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"never closed: {tag}" for tag in self.open]
        self.faults += [f"id twice: {one}" for one in set(self.ids) if self.ids.count(one) > 1]

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        wanted = {"img": ("alt", "width", "height"), "svg": ("aria-label", "role"), "th": ("scope",), "html": ("lang",)}
        self.faults += [f"{tag} without {name}" for name in wanted.get(tag, ()) if not attributes.get(name)]
        for name in ("src", "href"):
            if not (attributes.get(name) or "#").startswith(("#", "data:")):
                self.faults.append(f"from elsewhere: {attributes[name]}")
        if tag in ("script", "iframe", "object") or any(name.startswith("on") for name in attributes):
            self.faults.append(f"active: {tag}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID_ELEMENTS:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"closed out of order: {tag}")

    def handle_data(self, data):
        self.text.append(data)


def check_page(page):
    outline = Outline(page)
    assert outline.faults == []
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert not re.search(r"(https?:)?//[\w.-]+\.\w|@import|url\((?!#)", page.replace("sqlite:///", ""))
    return " ".join(" ".join(outline.text).split())


def test_the_page_is_whole_well_formed_and_needs_nothing_from_elsewhere(page):
    text = check_page(page)
    assert "left out, because" not in text
    assert "its miniature says it" not in text
    for part in ("No difference shown", "shortened training, 20 of 300 steps", "drawn miniature", "Settings",
                 "IoU by class", "Confusion", "Training", "Features of pixels by class",
                 "Ablations", "temperature on mini-camvid", "gone/search , is no longer there", "no --data_root",
                 "python -m pipeline.reproduce --trial 3", "contrast.temperature 0.07"):  # fmt: skip
        assert part.replace(" ,", ",") in text, part
    assert "What the trial changed setting value contrast.temperature 0.07" in text
    own = text.split("Settings of the first run that differ from the preset's")[1].split("All settings")[0]
    assert "model.head_channels 16" in own
    assert ("Helped most" in text) != ("no image in which contrast is better" in text)
    assert ("Hurt most" in text) != ("no image in which contrast is worse" in text)
    assert page.count('aria-label="Map by t-SNE') == 2
    assert len(page) < 5e6


def test_the_same_folder_gives_the_same_page(whole, page):
    assert write_report(whole).read_text() == page


def test_what_is_missing_is_said_in_a_sentence(whole, tmp_path, capfd):
    folder = tmp_path / "moved"
    shutil.copytree(whole, folder)
    state = json.loads((folder / "reproduce.json").read_text())
    state["datasets"]["mini-camvid"]["shards"] = "gone/shards"
    state["runs"].append(
        {"dataset": "camvid", "method": "contrast", "seed": 0, "state": "failed", "reason": "no memory"}
    )
    state["summary"] = {}
    (folder / "reproduce.json").write_text(json.dumps(state))
    shutil.rmtree(folder / "mini-camvid/contrast-seed1")
    (folder / "mini-camvid/contrast-seed0/metrics.jsonl").unlink()
    for file in folder.glob("mini-camvid/*/evaluation.npz"):
        file.write_bytes(b"damaged")
    (folder / "ablation-temperature.json").write_text("{")
    text = check_page(write_report(folder).read_text())
    assert "gone/shards holds no prepared data" in text
    assert "Confusion: left out, because no run has evaluation.npz." in text
    assert "failed: no memory" in text
    assert "no interval was computed" in text
    assert "one seed" in text
    assert "Ablations" not in text
    assert "Traceback" not in capfd.readouterr().err


def test_without_checkpoints_there_are_no_pictures_and_the_rest_is_there(whole, tmp_path):
    folder = tmp_path / "light"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("checkpoint"))
    text = check_page(write_report(folder).read_text())
    assert "Images: left out, because a checkpoint is no longer there." in text
    assert "Features: left out, because the checkpoint of" in text
    assert "IoU by class" in text


def test_others_text_is_escaped(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole / "mini-camvid/contrast-seed0", folder)
    result = json.loads((folder / "result.json").read_text())
    names = dict.fromkeys(result["per_class_iou"], 0.5)
    result["per_class_iou"] = {f"<script>{name}" if i == 0 else name: 0.5 for i, name in enumerate(names)}
    result["dataset"] = '"><img src=x onerror=alert(1)>'
    (folder / "result.json").write_text(json.dumps(result))
    assert "<script>sky" in check_page(write_report(folder).read_text())


def test_a_single_run_has_a_page(whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole / "mini-camvid/baseline-seed0", folder)
    main([str(folder)])
    assert str(folder / "report.html") in capsys.readouterr().out
    text = check_page((folder / "report.html").read_text())
    assert "Run on mini-camvid" in text
    assert "it is not known where its prepared images are" in text
    assert "contrast.weight 0" in text
    assert ">seed</th>" in (folder / "report.html").read_text()  # "seeds" over its 0 would be a count


def test_shards_beside_a_run_are_those_of_its_data_set_whatever_their_folder_is_called(shards, tmp_path):
    run = Contents(tmp_path / "run", "run")
    ours = Dataset(shards.dataset, ())
    other = shutil.copytree(shards.folder, tmp_path / "shards" / f"{shards.dataset}-60-abc")
    index = json.loads((other / INDEX).read_text())
    (other / INDEX).write_text(json.dumps(index | {"dataset": f"{shards.dataset}-60"}))
    with pytest.raises(ValueError, match="not known where"):
        find_shards(run, ours)
    mine = shutil.copytree(shards.folder, tmp_path / "shards" / f"{shards.dataset}-abc")
    assert find_shards(run, ours).folder == str(mine)


def test_a_folder_that_is_none_of_ours_is_refused(tmp_path, capsys):
    for argument, wanted in ((tmp_path, "expected config.json or reproduce.json"), (tmp_path / "no", "no folder")):
        with pytest.raises(SystemExit) as stop:
            main([str(argument)])
        assert stop.value.code == 2
        assert wanted in capsys.readouterr().err


def test_the_images_shown_are_those_of_the_largest_differences(whole, shards):
    runs = [
        Run(whole / f"mini-camvid/{method}-seed0", method, 0, "done", {}, {}) for method in ("baseline", "contrast")
    ]
    models = [load_segmentor(run.checkpoint) for run in runs]
    gains = {}
    for one in read_rows(shards.folder, split_rows(shards, "val")):
        before, after = (
            miou_of(counts_of(confusion_matrix(predict(model, one.image), one.label, len(shards.classes))))
            for model in models
        )
        gains[one.id] = after - before
    found = best_and_worst(*runs, shards)
    order = sorted(gains, key=gains.__getitem__)
    assert [one.id for one in found.hurt] == [id_ for id_ in order if gains[id_] < 0][:3]
    assert [one.id for one in found.helped] == [id_ for id_ in reversed(order) if gains[id_] > 0][:3]
    for one in (*found.helped, *found.hurt):
        assert one.miou[1] - one.miou[0] == pytest.approx(gains[one.id])
        assert [panel.title for panel in one.panels] == ["image", "truth", "baseline", "contrast", "changes"]


def test_confused_pairs_are_the_largest_off_the_diagonal(whole, shards):
    def run(method, seed):
        folder = whole / f"mini-camvid/{method}-seed{seed}"
        return Run(folder, method, seed, "done", json.loads((folder / "result.json").read_text()), {})

    runs = tuple(run(method, seed) for method in ("baseline", "contrast") for seed in (0, 1))
    found = confusion(Dataset("mini-camvid", runs))
    total = sum(
        confusion_matrix(predict(loaded, image.image), image.label, len(shards.classes))
        for loaded in (load_segmentor(one.checkpoint) for one in runs[2:])
        for image in read_rows(shards.folder, split_rows(shards, "val"))
    )
    counts = {
        (shards.classes[i], shards.classes[j]): (total[i, j], total[i, j] / total[i].sum())
        for i in range(len(total))
        for j in range(len(total))
        if i != j and total[i, j]
    }
    wanted = sorted(counts, key=lambda pair: -counts[pair][0])[0]
    first = found.pairs[0]
    assert (first.truth, first.prediction) == wanted
    assert first.share_of_class["contrast"] == pytest.approx(counts[wanted][1])
    assert first.share_of_all == pytest.approx(counts[wanted][0] / total.sum())
    assert len(found.pairs) == min(12, len(counts))


MEASURE = """<script>addEventListener("load", () => {
const light = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255).map(
  v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
const page = light(getComputedStyle(document.body).backgroundColor);
const ratios = [...document.querySelectorAll("p, th, td, a, summary, figcaption, caption, svg text")].map(e => {
  const s = getComputedStyle(e), l = light(e.closest("svg") ? s.fill : s.color);
  return (Math.max(l, page) + .05) / (Math.min(l, page) + .05); });
parent.postMessage(JSON.stringify({page: page, ratio: Math.min(...ratios),
  overflow: document.documentElement.scrollWidth - innerWidth, width: innerWidth,
  broken: [...document.images].filter(i => !i.naturalWidth).length, images: document.images.length}), "*");
});</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_browser_shows_it_on_wide_and_narrow_screens_light_and_dark(page, tmp_path, width, scheme):
    (tmp_path / "page.html").write_text(page.replace("</body>", MEASURE + "</body>"))
    frame = tmp_path / "frame.html"  # a window cannot be as narrow as a phone
    frame.write_text(
        '<meta name="color-scheme" content="light dark"><script>onmessage = e => document.title = e.data</script>'
        f'<iframe src="page.html" width="{width}" height="800" style="border: 0"></iframe>'
    )
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--virtual-time-budget=20000", *dark, "--dump-dom", frame.as_uri()]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    found = json.loads(re.search("<title>(.*?)</title>", shown)[1])
    assert (found["page"] < 0.1) == (scheme == "dark")
    assert found["width"] == width
    assert found["overflow"] <= 0
    assert found["broken"] == 0
    assert found["images"] >= 5
    assert found["ratio"] >= 4.5
