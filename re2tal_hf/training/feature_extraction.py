"""Features of videos by a frozen encoder: window by window, each step from where it has most to see around it."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from ..modeling_re2tal import Re2TALModel
from ..video_processing_re2tal import Re2TALVideoProcessor
from ..video_reader import VideoReader
from ..video_windows import Window

LIBRARIES = ("timm", "transformers")


class BackboneEncoder(nn.Module):
    """A backbone of ours: a feature for each of its steps.

    Args:
        model: Its weights are not changed.
    """

    def __init__(self, model: Re2TALModel):
        super().__init__()
        self.model = model
        self.size, self.stride = model.feature_size, model.feature_stride

    def forward(self, pixel_values_videos: Tensor, frame_mask: Tensor) -> Tensor:
        """Normalised frames `[B, T, C, H, W]` -> features `[B, T', size]`."""
        features: Tensor = self.model(pixel_values_videos, frame_mask).last_hidden_state
        return features


class LibraryEncoder(nn.Module):
    """A network of timm, on single frames, or of transformers, on frames or clips: a feature for a window.

    Args:
        source: `timm:NAME` or `transformers:NAME`, where the name is as the library takes it: of its own, of the Hub or
            of a folder.

    Raises:
        ValueError: There is no such library or network, or it takes neither frames nor clips.
    """

    def __init__(self, source: str):
        super().__init__()
        library, _, name = source.partition(":")
        if library not in LIBRARIES or not name:
            raise ValueError(f"--encoder {source}: give timm:NAME or transformers:NAME.")
        try:
            if library == "timm":
                import timm  # an extra

                self.network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
                self.size, self.video = int(self.network.num_features), False
            else:
                config: Any = AutoConfig.from_pretrained(name)
                self.network = AutoModel.from_pretrained(name)
                self.size = int(getattr(config, "vision_config", config).hidden_size)
                self.network = getattr(self.network, "vision_model", self.network)
                self.video = any(hasattr(config, part) for part in ("num_frames", "tubelet_size", "frames_per_clip"))
        except (OSError, RuntimeError, ValueError, AttributeError, ImportError) as error:
            raise ValueError(f"--encoder {source} does not load: {str(error).splitlines()[0][:300]}") from error
        self.stride: int | None = None

    def forward(self, pixel_values_videos: Tensor, frame_mask: Tensor) -> Tensor:
        """Normalised frames `[B, T, C, H, W]` -> features `[B, 1, size]`, the mean over space and time."""
        if self.video:
            name = "pixel_values_videos" if "pixel_values_videos" in _arguments(self.network) else "pixel_values"
            tokens: Tensor = self.network(**{name: pixel_values_videos}).last_hidden_state
            return tokens.mean(1, keepdim=True)
        found: Any = self.network(pixel_values_videos.flatten(0, 1))
        if not isinstance(found, Tensor):
            found = found.pooler_output if found.get("pooler_output") is not None else found.last_hidden_state.mean(1)
        return _mean(found.flatten(1).unflatten(0, pixel_values_videos.shape[:2]), frame_mask)


class FeatureExtractor:
    """Cuts videos into windows, encodes them and puts the features together.

    Args:
        encoder: In evaluation mode, on its device.
        processor: Says how frames are sampled and prepared, and how long a window is.
        overlap: Share of a window that the next one repeats, in [0, 1).
        mean: One feature for each window, the mean over it, in place of one for each step of the encoder.
        batch_size: Windows that are encoded together.

    Attributes:
        stride, offset: Frames from a feature to the next, and of the first, at the processor's frame rate.

    Raises:
        ValueError: The windows are not at a fixed rate, or are shorter than a step of the encoder.
    """

    def __init__(
        self,
        encoder: BackboneEncoder | LibraryEncoder,
        processor: Re2TALVideoProcessor,
        *,
        overlap: float = 0.5,
        mean: bool = False,
        batch_size: int = 1,
    ):
        if processor.sampling != "sliding":
            raise ValueError("processor.sampling: features are computed at a fixed rate; set it to 'sliding'.")
        self.encoder, self.processor, self.batch_size = encoder, processor, batch_size
        self.mean = mean or encoder.stride is None
        length, unit = processor.num_frames, 1 if self.mean else encoder.stride or 1
        if length < unit or (not self.mean and length % unit):
            raise ValueError(
                f"processor.num_frames is {length}; it must be a multiple of the encoder's step of {unit}."
            )
        self.step = max(unit, round(length * (1 - overlap)) // unit * unit)
        self.stride = self.step if self.mean else unit
        self.offset = length / 2 if self.mean else unit / 2

    @torch.inference_mode()
    def __call__(self, reader: VideoReader) -> Tensor:
        """Returns the features of a video, float32 `[N, D]`.

        Raises:
            VideoReadError: A frame does not decode.
        """
        processor, device = self.processor, next(self.encoder.parameters()).device
        whole = processor.whole_video(reader.name, reader.duration)
        starts, found = self._starts(whole.num_frames), []
        for first in range(0, len(starts), self.batch_size):
            windows = [self._window(whole, start) for start in starts[first : first + self.batch_size]]
            frames = [processor.read_frames(reader, window) for window in windows]
            batch = processor.prepare([part.to(device) for part in frames])
            features = self.encoder(**batch)
            if self.mean and features.shape[1] > 1:
                features = _mean(features, batch["frame_mask"][:, :: self.encoder.stride or 1])
            found += list(features.float().cpu())
        if self.mean:
            return torch.cat(found)
        return _stitched(starts, found, self.stride, math.ceil(whole.num_frames / self.stride))

    def _starts(self, num_frames: int) -> list[int]:
        """First frames of the windows; of means, of those that lie inside the video."""
        rest = max(0, num_frames - self.processor.num_frames)
        if self.mean:
            return [*range(0, rest + 1, self.step)]
        last = math.ceil(rest / self.stride) * self.stride
        return [*range(0, last, self.step), last]

    def _window(self, whole: Window, start: int) -> Window:
        length = min(self.processor.num_frames, whole.num_frames - start)
        return Window(whole.video_id, start / whole.frame_rate, whole.frame_rate, length, whole.duration)


def _stitched(starts: list[int], windows: list[Tensor], stride: int, count: int) -> Tensor:
    """Every step from the window in which it is farthest from the edges; those of the video are none."""
    stitched, depth = torch.zeros(count, windows[0].shape[1]), torch.full((count,), -1)
    for start, features in zip(starts, windows, strict=True):
        first = start // stride
        features = features[: count - first]
        steps = torch.arange(len(features))
        before = steps if first else steps + count
        after = steps.flip(0) if first + len(features) < count else steps.flip(0) + count
        inside, place = torch.minimum(before, after), slice(first, first + len(features))
        better = inside > depth[place]
        stitched[place][better] = features[better]
        depth[place] = torch.maximum(depth[place], inside)
    return stitched


def _mean(features: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(features)
    return (features * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp_min(1.0)


def _arguments(network: nn.Module) -> set[str]:
    return {*inspect.signature(network.forward).parameters}
