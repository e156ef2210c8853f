"""The inference graph of a model as a file that runs without this package: `torch.export` and ONNX."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.whole_files import naming
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..video_processing_re2tal import Re2TALVideoProcessor

INPUT_NAMES = ("pixel_values_videos", "frame_mask")
OUTPUT_NAMES = ("logits", "pred_segments", "point_mask")
FORMATS = ("torch", "onnx")


class InferenceGraph(nn.Module):
    """A model as a function of tensors, without losses.

    Args:
        model: Is put into evaluation mode.
    """

    def __init__(self, model: Re2TALForTemporalActionLocalization):
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, pixel_values_videos: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns `logits`, `pred_segments` and `point_mask`; shapes as in the model's own output."""
        output = self.model(pixel_values_videos, frame_mask=frame_mask)
        return tuple(output[name] for name in OUTPUT_NAMES)


def window_shape(processor: Re2TALVideoProcessor) -> tuple[int, int, int]:
    """Returns frames, height and width of what a processor gives the model.

    Raises:
        ValueError: if height and width depend on the video.
    """
    size = processor.crop_size if processor.do_center_crop else processor.size
    if not (processor.do_center_crop or processor.do_resize) or not (size.height and size.width):
        raise ValueError(
            "The processor's frames have no fixed size, which a graph needs: "
            "set its size to a height and a width, or do_center_crop."
        )
    return processor.num_frames, size.height, size.width


def random_windows(
    model: Re2TALForTemporalActionLocalization, shape: Sequence[int], batch: int = 2
) -> tuple[Tensor, Tensor]:
    """Draws inputs of a model, the last window of which ends in padding.

    Args:
        model: Its device and dtype are those of the inputs.
        shape: Frames, height and width.
        batch: Number of windows.

    Returns:
        `pixel_values_videos` `[batch, T, 3, H, W]` and `frame_mask` bool `[batch, T]`.
    """
    num_frames, height, width = shape
    videos = torch.randn(batch, num_frames, 3, height, width, device=model.device, dtype=model.dtype)
    frame_mask = torch.ones(batch, num_frames, dtype=torch.bool, device=model.device)
    frame_mask[-1, -(num_frames // 3) :] = False
    return videos, frame_mask


@torch.no_grad()
def export_graph(model: Re2TALForTemporalActionLocalization, shape: Sequence[int]) -> torch.export.ExportedProgram:
    """Exports the inference graph of a model.

    Args:
        model: Is put into evaluation mode.
        shape: Frames, height and width of a window, fixed in the graph; see `window_shape`.

    Returns:
        Of `(pixel_values_videos, frame_mask)`, for any number of windows.
    """
    batch = torch.export.Dim("batch")
    return torch.export.export(
        InferenceGraph(model), random_windows(model, shape), dynamic_shapes=({0: batch}, {0: batch})
    )


def save_graph(program: torch.export.ExportedProgram, path: str | Path, file_format: str = "torch") -> None:
    """Writes an exported graph to a file.

    Args:
        program: From `export_graph`.
        path: Where to; appears only when it is complete.
        file_format: `"torch"` for a `.pt2` file, or `"onnx"`, which keeps weights of 2 GiB and more in files beside.

    Raises:
        ImportError: if ONNX is asked for and not installed.
        ValueError: if the format is unknown.
    """
    check_format(file_format)
    path = Path(path)
    with naming(path), _new_folder(path.parent) as folder:
        target = Path(folder) / path.name
        if file_format == "onnx":
            onnx_program = torch.onnx.export(
                program, dynamo=True, input_names=INPUT_NAMES, output_names=OUTPUT_NAMES, verbose=False
            )
            assert onnx_program is not None
            onnx_program.save(target)
        else:
            # Into memory first: where it cannot write, PyTorch 2.14 ends the process.
            whole = io.BytesIO()
            torch.export.save(program, whole)
            target.write_bytes(whole.getbuffer())
        for file in Path(folder).iterdir():
            os.replace(file, path.parent / file.name)


@contextlib.contextmanager
def _new_folder(parent: Path) -> Iterator[str]:
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield folder


def load_graph(path: str | Path, file_format: str = "torch") -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
    """Returns a saved graph as a function of `pixel_values_videos` and `frame_mask`, on the CPU for ONNX.

    Raises:
        ImportError: if a graph in ONNX is to be run without onnxruntime.
        ValueError: if the format is unknown.
    """
    if file_format == "torch":
        return torch.export.load(path).module()
    check_format(file_format)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = {name: value.cpu().numpy() for name, value in zip(INPUT_NAMES, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(OUTPUT_NAMES, arrays)]

    return run


def check_format(file_format: str) -> None:
    """Raises a `ValueError` if the format is unknown, an `ImportError` if it lacks its libraries."""
    if file_format not in FORMATS:
        raise ValueError(f"The format is {file_format!r}; choose one of {', '.join(FORMATS)}.")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if file_format == "onnx" and missing:
        raise ImportError(f"Export to ONNX needs {' and '.join(missing)}; install the package's extra [export].")


@torch.no_grad()
def largest_differences(
    graph: Callable[[Tensor, Tensor], Sequence[Tensor]],
    model: Re2TALForTemporalActionLocalization,
    inputs: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """Compares a graph with the model that it was made from.

    Args:
        graph: From `load_graph`, or the module of an `ExportedProgram`.
        model: Is put into evaluation mode.
        inputs: `pixel_values_videos` and `frame_mask`.

    Returns:
        For each output the largest absolute difference, in units of its largest value or, if that
        is below 1, of 1.
    """
    expected = InferenceGraph(model)(*inputs)
    differences = {}
    for name, one, other in zip(OUTPUT_NAMES, graph(*inputs), expected, strict=True):
        one, other = one.cpu().double(), other.cpu().double()
        differences[name] = float((one - other).abs().max() / other.abs().max().clamp_min(1))
    return differences
