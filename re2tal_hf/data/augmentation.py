"""Augmentation of training clips: one draw for all frames, on uint8 before normalisation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor
from torchvision.transforms import v2

from ..value_checks import COUNT, SHARE, Range, check_values, fields_of
from .random_operations import OPERATIONS, RandomOperations

# Colours are computed in floating point, four times the bytes of a frame and more.
FRAMES_TOGETHER = 256


@dataclass(frozen=True)
class Augmentation:
    """Settings of the augmentation of training clips; each part is off at its neutral value.

    Attributes:
        crop_scale: Range of the share of the frame's area that a random crop keeps before it is
            resized to the input size; `None` takes no random crop.
        crop_ratio: Range of the crop's aspect ratio, width to height.
        crop_edge: Shorter edge in pixels of the frames that the crop is taken from. By default it is so long that the
            smallest crop keeps its detail, where the video has it.
        flip_probability: How often a clip is mirrored left to right.
        unflippable_labels: Names or ids of the classes whose meaning depends on left and right; a
            clip that shows one of them is never mirrored. `with_labels` turns names into ids.
        random_operations: How many operations of RandAugment a clip goes through, after crop and flip; see
            `RandomOperations`.
        operation_strength: Theirs, from 0 to 1.
        brightness: Largest relative change; the factor is drawn from `[1 - b, 1 + b]`.
        contrast: Like `brightness`.
        saturation: Like `brightness`.
        hue: Largest shift as a share of the colour circle, at most 0.5.

    Raises:
        ValueError: A value outside its range.
    """

    crop_scale: Annotated[tuple[float, float] | None, Range(0, 1, with_low=False, rising=True)] = None
    crop_ratio: Annotated[tuple[float, float], Range(0.01, 100, rising=True)] = (3 / 4, 4 / 3)
    crop_edge: Annotated[int | None, COUNT] = None
    flip_probability: Annotated[float, SHARE] = 0.0
    unflippable_labels: Collection[int | str] | int | str | None = ()
    random_operations: Annotated[int, Range(0, len(OPERATIONS))] = 0
    operation_strength: Annotated[float, SHARE] = 0.9
    brightness: Annotated[float, Range(0, 10)] = 0.0
    contrast: Annotated[float, Range(0, 10)] = 0.0
    saturation: Annotated[float, Range(0, 10)] = 0.0
    hue: Annotated[float, Range(0, 0.5)] = 0.0

    def __post_init__(self) -> None:
        check_values("", vars(self), fields_of(Augmentation))
        self._transform((1, 1), flip=True)

    def with_labels(self, label_names: Sequence[str]) -> Augmentation:
        """The same settings with `unflippable_labels` as ids of these classes.

        Args:
            label_names: Name of class 0, 1, ...

        Raises:
            ValueError: A label is none of the classes, or a number that is the id of one and the name of another.
        """
        return replace(self, unflippable_labels=tuple(_class_id(label, label_names) for label in self._unflippable()))

    def _unflippable(self) -> Collection[int | str]:
        labels = self.unflippable_labels
        if labels is None:
            return ()
        return (labels,) if isinstance(labels, int | str) else labels

    def __call__(
        self,
        frames: Tensor,
        size: tuple[int, int] | None = None,
        *,
        labels: Collection[int] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Augments one clip.

        Args:
            frames: uint8 `[T, C, H, W]`.
            size: Height and width of a random crop after resizing; without `crop_scale` the
                frames keep their size.
            labels: Class ids of the actions in the clip.
            generator: Source of the random draws, advanced by one; default: torch's global one.
                torchvision draws from the global generator only, which is seeded from this one for
                the call and restored after it.

        Returns:
            uint8 `[T, C, H', W']`; the same draw for every frame.

        Raises:
            ValueError: `crop_scale` is set and there is no `size`, or `unflippable_labels` holds names still.
        """
        unflippable = set(self._unflippable())
        if any(isinstance(label, str) for label in unflippable):
            raise ValueError(
                f"unflippable_labels {sorted(map(str, unflippable))} are names: with_labels() turns them into class ids"
            )
        transform = self._transform(size, flip=not set(labels) & unflippable)
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            augmented: Tensor | None = None
            for first in range(0, len(frames), FRAMES_TOGETHER):
                # torch.manual_seed would also reseed the accelerators, which fork_rng does not restore.
                torch.default_generator.manual_seed(seed)
                part = transform(frames[first : first + FRAMES_TOGETHER])
                if len(part) == len(frames):
                    return part
                if part.data_ptr() == frames.data_ptr() and part.shape[1:] == frames.shape[1:]:
                    return frames  # nothing was drawn
                if augmented is None:
                    augmented = part.new_empty(len(frames), *part.shape[1:])
                augmented[first : first + len(part)] = part
        return frames if augmented is None else augmented

    def _transform(self, size: tuple[int, int] | None, *, flip: bool) -> v2.Transform:
        parts: list[v2.Transform] = [v2.Identity()]
        if self.crop_scale is not None:
            if size is None:
                raise ValueError(
                    "crop_scale needs frames of one size: give the video processor a size with"
                    " height and width, or do_center_crop and crop_size"
                )
            parts.append(v2.RandomResizedCrop(size, self.crop_scale, self.crop_ratio))
        if flip and self.flip_probability > 0:
            parts.append(v2.RandomHorizontalFlip(self.flip_probability))
        if self.random_operations:
            parts.append(RandomOperations(self.random_operations, self.operation_strength))
        if self.brightness or self.contrast or self.saturation or self.hue:
            parts.append(v2.ColorJitter(self.brightness, self.contrast, self.saturation, self.hue))
        return v2.Compose(parts)


def _class_id(label: int | str, names: Sequence[str]) -> int:
    known = ", ".join(f"{index} {name!r}" for index, name in enumerate(names))
    by_name = names.index(str(label)) if str(label) in names else None
    by_id = label if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names) else None
    if by_name is not None and by_id is not None and by_name != by_id:
        raise ValueError(
            f"unflippable_labels: {label!r} is the id of class {names[by_id]!r} and the name of class {by_name};"
            " put it in quotes to mean the name"
        )
    found = by_name if by_id is None else by_id
    if found is None:
        raise ValueError(f"unflippable_labels: there is no class {label!r}; the classes are {known}")
    return found
