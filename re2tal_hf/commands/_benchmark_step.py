"""A training step that `re2tal benchmark` measures: kept bytes, seconds, and its peak in a process of its own."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .. import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALModel
from ..architecture import architecture_of, build_library_model
from ..backprop_plan import BackpropPlan
from ..rewired_model import cut_into_clips
from ..training.arguments import Recipe
from ..training.memory import peak_memory, reset_peak_memory, saved_for_backward
from ..training.own_files import import_files
from ._benchmark_backbones import sized

# What a library's own forward needs to do no more than ours.
LIBRARY_ARGUMENTS = {"vjepa2": {"skip_predictor": True}}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MIB = 2**20


class Step:
    """A model and a batch: one training step without the optimiser, or inference."""

    def __init__(
        self, model: nn.Module, videos: Tensor, precision: str, labels: list | None = None, trains: bool = True
    ):
        self.model: Any = model.to(videos.device).train(trains)
        self.videos = videos
        self.labels = labels
        self.trains = trains
        self.dtype = PRECISIONS[precision]

    def forward(self) -> Tensor:
        """Returns the loss, or the mean square of the features of a model without head."""
        with self._autocast(), torch.set_grad_enabled(self.trains):
            if self.labels is None:
                return self.model(self.videos).last_hidden_state.float().square().mean()
            return self.model(self.videos, labels=self.labels).loss

    def run(self) -> tuple[float, float]:
        """Runs forward and backward; returns the seconds of the forward and of both."""
        start = self._now()
        loss = self.forward()
        middle = self._now()
        if self.trains:
            loss.backward()
        end = self._now()
        # Other models wait in memory.
        self.model.zero_grad(set_to_none=True)
        return middle - start, end - start

    def saved(self) -> float:
        """Returns the MiB kept for the backward pass."""
        without = [*self.model.parameters(), *self.model.buffers()]
        with saved_for_backward(without) as saved:
            self.forward()
        return saved.total() / MIB

    def plan(self) -> BackpropPlan:
        """Returns the plan of a step with `backprop=auto`, within `model.memory_budget`."""
        with self._autocast():
            return self.model.backbone.plan_for(self.videos.shape, self.videos.dtype)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.videos.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _now(self) -> float:
        if self.videos.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        # Of one thread, what it worked: what others do on the machine does not count.
        return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class LibraryModel(nn.Module):
    """A backbone as its library ships it: its modules and its forward, nothing of ours."""

    def __init__(self, backbone_config: dict):
        super().__init__()
        self.model = build_library_model(backbone_config)
        self.architecture = architecture_of(type(self.model))

    def forward(self, videos: Tensor) -> BaseModelOutput:
        """`[B, T, C, H, W]` -> the first tensor that the library returns, as `last_hidden_state`."""
        length = self.architecture.clip_length(self.model)
        videos = videos if length is None else cut_into_clips(videos, length)
        arguments = LIBRARY_ARGUMENTS.get(self.architecture.model_type, {})
        output = self.model(self.architecture.to_library_input(videos), **arguments)
        return BaseModelOutput(last_hidden_state=output if isinstance(output, Tensor) else output[0])


def backbone_step(arguments: argparse.Namespace, backbone: dict, change: dict | None, trains: bool = True) -> Step:
    """`change` is to the configuration; None for the library's own model. With adapters only these are trained."""
    torch.manual_seed(0)
    backbone = sized(backbone, arguments.size)
    if change is None:
        model: nn.Module = LibraryModel(backbone)
    else:
        model = Re2TALModel(Re2TALConfig(backbone_config=backbone, **change))
        if backbone.get("adapter_width"):
            model.freeze(backbone=True)
    videos = torch.randn((1, arguments.frames, 3, arguments.size, arguments.size), device=arguments.device)
    return Step(model, videos, arguments.precision, trains=trains)


def budget_step(arguments: argparse.Namespace, backbone: dict, budget: int) -> Step:
    step = backbone_step(arguments, backbone, {"backprop": "auto"})
    step.model.memory_budget = budget
    step.plan()  # not while its peak is measured
    return step


def recipe_step(arguments: argparse.Namespace, recipe: Recipe, change: dict, frozen: bool = False) -> Step:
    torch.manual_seed(0)
    config = Re2TALConfig(**{**recipe.model, **change}, num_labels=6)
    size, frames = recipe.processor["size"], recipe.processor["num_frames"]
    shape = (recipe.training.batch_size, frames, 3, size["height"], size["width"])
    videos = torch.randn(shape, device=arguments.device)
    label = {
        "segments": torch.tensor([[0.2 * frames, 0.4 * frames]], device=arguments.device),
        "class_labels": torch.tensor([0], device=arguments.device),
    }
    model = Re2TALForTemporalActionLocalization(config)
    model.freeze(**{**vars(recipe.freeze), "backbone": frozen})
    return Step(model, videos, arguments.precision, [label] * shape[0])


def _peak(build: Callable[..., Step], parameters: tuple, threads: int) -> float:
    torch.set_num_threads(threads)
    import_files(parameters[0].imports)
    step = build(*parameters)
    before = 0.0 if step.videos.device.type == "cuda" else reset_peak_memory()
    step.run()
    return peak_memory() - before


def peak_of_step(build: Callable[..., Step], parameters: tuple, threads: int) -> float:
    """Returns the MiB that a step adds at its peak to a process of its own."""
    # Where it can be, forked from a process that has imported what a step needs, which takes seconds.
    multiprocessing.set_forkserver_preload([f"{__package__}._command"])
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(kind)) as process:
        # Ctrl-C reaches both, and the other would show a traceback: it inherits that it pays no heed.
        heed = signal.signal(signal.SIGINT, signal.SIG_IGN)
        measured = process.submit(_peak, build, parameters, threads)
        signal.signal(signal.SIGINT, heed)
        try:
            return measured.result()
        except KeyboardInterrupt:
            for other in multiprocessing.active_children():
                other.terminate()
            raise
