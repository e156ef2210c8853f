"""Exports the inference graph of a model, and compares it with the model on random input.

re2tal export runs/first/best --format onnx --output model.onnx
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoVideoProcessor

from ..configuration_re2tal import check_model_folder
from ..data.whole_files import check_writable
from ..modeling_re2tal import Re2TALForTemporalActionLocalization
from ..publishing.graph import (
    FORMATS,
    check_format,
    export_graph,
    largest_differences,
    load_graph,
    random_windows,
    save_graph,
    window_shape,
)
from ..training.feature_settings import MODEL_TYPE as FEATURES
from ..training.model_source import explained, find_model
from ._command import run_command

# Of fp32; other kernels add up in another order.
LARGEST_DIFFERENCE = 1e-4


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of a model or of a run, or a Hub id")
    parser.add_argument("--format", choices=FORMATS, default="torch")
    parser.add_argument("--output", required=True, help="the file to write, such as model.pt2 or model.onnx")


def check_exportable(config: Any, source: str) -> None:
    """Refuses what is no function of videos, before any weights are loaded."""
    kind = Re2TALForTemporalActionLocalization.__name__
    if kind not in (config.architectures or []):
        raise ValueError(f"{source} holds {config.architectures or config.model_type}; export takes a {kind}.")
    if config.backbone_config.get("model_type") == FEATURES:
        raise ValueError(f"{source} is a model on stored features; export takes one that sees the videos.")


def run(arguments: argparse.Namespace) -> int:
    check_format(arguments.format)
    if Path(arguments.output).is_dir():
        raise IsADirectoryError(f"--output {arguments.output} is a folder: name a file.")
    check_writable(Path(arguments.output).parent)
    source = find_model(arguments.model, "model")
    if Path(source).is_dir():
        check_model_folder(Path(source))
    with explained(source, "model"):
        check_exportable(AutoConfig.from_pretrained(source), arguments.model)
        model = AutoModel.from_pretrained(source, dtype="float32", partial=False)
        shape = window_shape(AutoVideoProcessor.from_pretrained(source))
    save_graph(export_graph(model, shape), arguments.output, arguments.format)
    print(f"{arguments.output}: windows of {shape[0]} frames, {shape[1]} x {shape[2]}")
    if arguments.format == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        print("not compared with the model: onnxruntime is not installed")
        return 0
    graph = load_graph(arguments.output, arguments.format)
    difference = max(largest_differences(graph, model, random_windows(model, shape, batch=1)).values())
    print(f"largest difference from the model, relative: {difference:.1e}")
    if difference > LARGEST_DIFFERENCE:
        print(f"error: that is more than {LARGEST_DIFFERENCE:.0e}; do not use the file.", file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
