"""Command line: write the segmentor of a checkpoint as one file that runs without this project.

python -m pipeline.export --checkpoint runs/NAME/checkpoint                    # model.pt2, for torch.export.load
python -m pipeline.export --checkpoint runs/NAME/checkpoint --format onnx      # model.onnx; needs pixcon[onnx]
python -m pipeline.export --checkpoint runs/NAME/checkpoint --size 360 480     # images of this size alone

The file takes RGB images (B, 3, H, W) as float32 in 0..1 and gives logits (B, C, H, W). Normalisation is inside, the
projection head and the memory are not. Classes, palette and what goes in and out are JSON in the file, under
`pixcon.json`: an extra file in torch's format, a metadata property in ONNX.
"""

import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from unittest import mock

import timm.layers.padding
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pipeline.command import exit_codes, parse_flags
from pipeline.predicting.inference import PAD_TO
from pipeline.training.checkpoint import Loaded, Meta, load_segmentor

Format = Literal["torch", "onnx"]
SUFFIX: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
METADATA = "pixcon.json"
TOLERANCE = 1e-3
# Where no size is asked for, the graph is traced with one and checked with another. Odd multiples of PAD_TO for the
# check: a backbone whose maps are halved once more than thought shows there.
TRACED, CHECKED = (2 * PAD_TO, 4 * PAD_TO), (3 * PAD_TO, 5 * PAD_TO)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the segmentor of a checkpoint, without projection head and memory, as one file."""

    checkpoint: Path
    """A checkpoint folder."""

    format: Format = "torch"
    """torch: an ExportedProgram (.pt2). onnx: needs pixcon[onnx]."""

    out: Path | None = None
    """The file, written over if there is one. Without it, model.pt2 or model.onnx beside the checkpoint folder."""

    size: tuple[int, int] | None = None
    """Height and width of the images, any. Without it, the file takes every multiple of 32 from 64 on."""


class Exported(NamedTuple):
    """A file that was written, and how exact it is."""

    file: Path
    difference: float
    """From the model's own logits on a random image, the largest."""


class ImageSegmentor(nn.Module):
    """A segmentor from image to logits: normalisation before it, the image's own resolution after it."""

    mean: Tensor
    std: Tensor

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.segmentor = loaded.model
        self.register_buffer("mean", torch.tensor(loaded.meta.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(loaded.meta.std).view(3, 1, 1))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch class height width"]:
        """Return the logits of every pixel, as `pipeline.predicting.inference` makes them."""
        height, width = images.shape[2:]
        below, right = -height % PAD_TO, -width % PAD_TO
        pixels = (images - self.mean) / self.std
        if below or right:
            pixels = F.pad(pixels, (0, right, 0, below))
        logits: Tensor = self.segmentor(pixels).logits
        logits = F.interpolate(logits, pixels.shape[2:], mode="bilinear", align_corners=False)
        return logits[:, :, :height, :width] if below or right else logits


def export(
    checkpoint: Path, format_: Format = "torch", *, out: Path | None = None, size: tuple[int, int] | None = None
) -> Exported:
    """Write the segmentor of a checkpoint as one file, and check it.

    Args:
        checkpoint: A checkpoint folder.
        format_: What to write.
        out: The file; appears whole, or not at all. None is beside the checkpoint folder.
        size: Height and width of the images; None leaves them open, in multiples of 32.

    Raises:
        ValueError: If the checkpoint is not one, a package is missing, the model cannot be exported in this way, or
            the file's logits are not the model's.
        OSError: If the file cannot be written.
    """
    if size is not None and min(size) < 1:
        raise ValueError(f"--size must be a height and a width, each >= 1, but got {size[0]} {size[1]}.")
    if format_ == "onnx":
        _check_onnx()
    loaded = load_segmentor(checkpoint)
    model = ImageSegmentor(loaded).eval()
    file = out or checkpoint.resolve().parent / f"model{SUFFIX[format_]}"
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
        draft = Path(folder) / f"model{SUFFIX[format_]}"
        program = trace(model, size)
        description = json.dumps(describe(loaded.meta, size), indent=1)
        run: Callable[[Tensor], Tensor]
        if format_ == "torch":
            _save_torch(program, draft, description)
            run = torch.export.load(draft).module()
        else:
            _save_onnx(program, draft, description)
            run = _load_onnx(draft)
        difference = _difference(run, model, size or CHECKED)
        draft.replace(file)
    return Exported(file, difference)


def trace(model: ImageSegmentor, size: tuple[int, int] | None) -> ExportedProgram:
    """Return the graph of a model, for any number of images of this size, or of all multiples of 32.

    Raises:
        ValueError: If torch.export cannot make it.
    """
    example = torch.zeros(2, 3, *(size or TRACED))
    sides = {} if size else {2: PAD_TO * Dim("height", min=2), 3: PAD_TO * Dim("width", min=2)}
    try:
        with contextlib.nullcontext() if size else _constant_padding():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim("batch")} | sides,), strict=False)
    except Exception as error:  # of many kinds, from within torch.export
        advice = "" if size else " For images of one size: --size HEIGHT WIDTH."
        raise ValueError(f"torch.export cannot make a graph of this model: {_first_line(error)}{advice}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine, which would be written into the file
    return program


def describe(meta: Meta, size: tuple[int, int] | None) -> dict[str, object]:
    """Return what a user of the file has to know."""
    sides = list(size) if size else ["height", "width"]
    return {
        "classes": meta.classes,
        "palette": meta.palette,
        "input": {
            "shape": ["batch", 3, *sides],
            "dtype": "float32",
            "channels": "RGB",
            "range": [0, 1],
            "multiple_of": None if size else PAD_TO,
            "min_size": None if size else min(TRACED),
        },
        "normalisation": {"where": "inside the graph", "mean": meta.mean, "std": meta.std},
        "output": {"shape": ["batch", len(meta.classes), *sides], "dtype": "float32", "meaning": "logits"},
        "step": meta.step,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Export; end with code 2 if that cannot be done. The last line printed is the file's path."""
    given = sys.argv[1:] if arguments is None else arguments
    with exit_codes(stopped="; no file was written."):
        options = parse_flags(Options, "python -m pipeline.export", given)
        try:
            exported = export(options.checkpoint, options.format, out=options.out, size=options.size)
        except ValueError as error:  # torch's are pages
            raise ValueError(" ".join(str(error).split())) from error
        except OSError as error:
            raise ValueError(f"The file cannot be written: {error}") from error
    sides = "{} x {}".format(*options.size) if options.size else f"multiples of {PAD_TO} from {min(TRACED)} on"
    print(f"images of {sides}; logits differ from the model's by {exported.difference:.1e} at most")
    print(exported.file)


@contextlib.contextmanager
def _constant_padding() -> Iterator[None]:
    """Make timm's "same" padding what it always is on maps whose sides are multiples of the stride.

    As timm has it, it is computed anew from each map's size. With open sizes that would be in the graph, which
    torch.export then takes very long to make, or cannot save.
    """

    def constant(_: int, kernel_size: int, stride: int, dilation: int) -> int:
        return max((kernel_size - 1) * dilation + 1 - stride, 0)

    with mock.patch.object(timm.layers.padding, "get_same_padding", constant):
        yield


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"--format onnx needs {', '.join(missing)}: pip install 'pixcon[onnx]'.")


def _save_torch(program: ExportedProgram, file: Path, description: str) -> None:
    try:
        torch.export.save(program, file, extra_files={METADATA: description})
    except OSError:
        raise
    except Exception as error:  # its kind is private to torch.export
        raise ValueError(f"torch.export cannot save this model: {_first_line(error)}") from error


def _save_onnx(program: ExportedProgram, file: Path, description: str) -> None:
    try:
        converted = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
    except Exception as error:  # of many kinds, from within the converter
        raise ValueError(f"torch.onnx cannot convert this model: {_first_line(error)}") from error
    assert converted is not None  # it is only with dynamo=False
    converted.model.metadata_props[METADATA] = description
    converted.save(file)


def _load_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@torch.inference_mode()
def _difference(run: Callable[[Tensor], Tensor], model: ImageSegmentor, size: tuple[int, int]) -> float:
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    difference = float((run(image) - model(image)).abs().max())
    if not difference <= TOLERANCE:  # nor is nan
        raise ValueError(
            f"The exported model's logits differ from the model's by {difference:.1e}, more than {TOLERANCE:.0e};"
            " nothing was written."
        )
    return difference


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


if __name__ == "__main__":
    main()
