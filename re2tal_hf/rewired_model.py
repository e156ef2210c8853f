"""`RewiredModel`: the forward pass of a network over its rewired stages."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .architecture import Architecture
from .backprop_parts import can_go_by_parts, is_trained, part_by_part, plan_parts
from .backprop_plan import AnyBackprop, BackpropPlan, BackpropPlanner, OverBudgetError
from .byte_frames import taking_bytes
from .coupling import COUPLING, DUAL_RESIDUAL, AnyCoupling, as_couplings, check_rewiring, default_backprop
from .dual_residual import LARGEST_ERROR, BackpropSwitch
from .model_inputs import normalized_pixels
from .reversible import Backprop, Coupling, ReconstructionErrors, Stage, run_stages
from .stream_grid import GRIDS, StreamGrid
from .value_checks import NOT_NEGATIVE, POSITIVE_SHARE, check_value


def cut_into_clips(videos: Tensor, length: int) -> Tensor:
    """Cuts videos into clips that follow each other without overlap.

    Args:
        videos: `(B, T, C, H, W)`. The last clip is filled with copies of the last frame.
        length: Frames of a clip.

    Returns:
        `(B * clips, length, C, H, W)`: the clips of the first video, then those of the second.
    """
    missing = -videos.shape[1] % length
    if missing:
        videos = torch.cat([videos, videos[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    return videos.reshape(-1, length, *videos.shape[2:])


def join_clips(features: Tensor, num_videos: int) -> Tensor:
    """Joins the features of clips, `(B * clips, T'', D)` or `(B, clips, T'', D)`, to `(num_videos, clips * T'', D)`."""
    return features.reshape(num_videos, -1, features.shape[-1])


class RewiredModel(nn.Module):
    """Mixed into the class of a rewired model: the forward pass over the rewired stages."""

    original_class: ClassVar[type[nn.Module]]
    architecture: Architecture
    rewiring: str
    backprop: AnyBackprop
    coupling: Tensor
    _couplings: list[Coupling]
    reconstruction_errors: ReconstructionErrors
    backprop_switch: BackpropSwitch
    backprop_planner: BackpropPlanner
    stream_bits: int | None = None

    @property
    def stream_grid(self) -> StreamGrid | None:
        """What the streams are rounded to; None: they are not."""
        return None if self.stream_bits is None else GRIDS[self.stream_bits]

    @property
    def memory_budget(self) -> int | None:
        """Bytes that may be kept between forward and backward with `backprop="auto"`; None: what is free."""
        return self.backprop_planner.memory_budget

    @memory_budget.setter
    def memory_budget(self, value: int | None) -> None:
        self.backprop_planner.memory_budget = check_value("memory_budget", value, Annotated[int | None, NOT_NEGATIVE])

    @property
    def backprop_share(self) -> float:
        """Share of a video's clips or chunks, drawn anew in every pass, that `backprop="clips"` takes gradients of.

        Less than 1 takes less time and makes gradients random; in the mean they are those of all (cf. ETAD, arXiv
        2205.07134, which takes 0.3).
        """
        return self.backprop_planner.share

    @backprop_share.setter
    def backprop_share(self, value: float) -> None:
        self.backprop_planner.share = check_value("backprop_share", value, Annotated[float, POSITIVE_SHARE])

    @property
    def plan(self) -> BackpropPlan | None:
        """Modes of the latest training pass with `backprop="auto"`, and why; None before the first."""
        return self.backprop_planner.plan

    def set_coupling(self, coupling: AnyCoupling) -> None:
        """Sets the coefficients of Dr2Net, `(alpha, beta)` or a pair for each stage."""
        check_rewiring(self.rewiring, self.backprop, coupling)
        with torch.no_grad():
            self.coupling.copy_(torch.tensor(as_couplings(coupling, len(self._couplings))))
        self.couplings()

    def couplings(self) -> list[Coupling]:
        """Returns the coefficients `(alpha, beta)` of every stage; of Dr2Net those in its buffer."""
        # A graph that is compiled or exported takes them as they were.
        if self.rewiring == DUAL_RESIDUAL and not (torch.compiler.is_compiling() or self.coupling.is_meta):
            # They come with the weights.
            self._couplings = as_couplings(self.coupling.tolist(), len(self._couplings))
        return self._couplings

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """As in PyTorch; weights may be of a network with another rewiring."""
        name = prefix + COUPLING
        state = dict(state_dict)
        if self.rewiring == DUAL_RESIDUAL:
            state.setdefault(name, self.coupling)
        elif not hasattr(self, COUPLING):
            state.pop(name, None)
        super()._load_from_state_dict(state, prefix, *args)
        self.couplings()

    def forward_features(
        self,
        inputs: Tensor,
        stage_outputs: list[Tensor] | None = None,
        modes: Sequence[Backprop] | None = None,
        prepared: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """From the library's own input form to normalised features `[B, T', ..., D]`.

        Args:
            inputs: Of the library's own form.
            stage_outputs: Receives the merged outputs of all stages.
            modes: Of the backward pass, one for each stage; by default those of `backprop`.
            prepared: From videos in uint8, given as inputs, to that form.
        """
        recomputes = torch.is_grad_enabled() and self.backprop != "plain"
        return (self._features_not_compiled if recomputes else self._features)(inputs, stage_outputs, modes, prepared)

    def _features(
        self,
        inputs: Tensor,
        stage_outputs: list[Tensor] | None,
        modes: Sequence[Backprop] | None,
        prepared: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        if prepared is None:
            stages = self.architecture.stages(self, inputs.shape)
        else:
            shape = self._library_input(torch.empty_like(inputs, device="meta")).shape
            stages = taking_bytes(self.architecture.stages(self, shape), prepared)
        self._set_modes_of_wrappers(stages)
        couplings = self.couplings()
        modes, probes = self._modes(stages, inputs, couplings) if modes is None else (modes, [])
        errors, grid = self.reconstruction_errors, self.stream_grid
        outputs = run_stages(stages, inputs, couplings, modes, errors, probes, stage_outputs, grid)
        return self.architecture.norm(self, *outputs)

    # What recomputation notes of every module, such as the generators' states, breaks a graph, and each piece would be
    # compiled anew for each module. Modules that were compiled by themselves run so.
    _features_not_compiled = torch.compiler.disable(_features)

    def plan_for(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> BackpropPlan:
        """Makes the plan of training passes over videos, before there are any; see `memory_budget`.

        Args:
            shape: `(B, T, C, H, W)`.
            dtype: Of the videos.

        Raises:
            ValueError: if the leanest modes keep more than the budget.
        """
        videos, planner = torch.empty(tuple(shape), dtype=dtype, device="meta"), self.backprop_planner
        if self.backprop == "clips" or (self.backprop == "auto" and planner.clips):
            return plan_parts(self, videos)
        try:
            return self.plan_together(videos)
        except OverBudgetError as error:
            if self.backprop != "auto" or not can_go_by_parts(self):
                raise
            plan = plan_parts(self, videos)
            planner.plan = replace(plan, reason=f"By clips, since the whole is too large: {error}")
            return planner.plan

    @property
    def by_clips(self) -> bool:
        """Whether some clips of a video after the other go through, as `backprop="clips"` or the latest plan says."""
        planned = self.backprop_planner.clips or (self.plan is not None and self.plan.together > 0)
        return self.backprop == "clips" or (self.backprop == "auto" and planned)

    def plan_together(self, videos: Tensor, most_together: int = 0) -> BackpropPlan:
        """Makes the plan of videos that go through the backbone at a time; `most_together` as for `make_plan`."""
        inputs = self._library_input(videos)
        stages = self.architecture.stages(self, inputs.shape)
        self._set_modes_of_wrappers(stages)
        couplings, inverted = self.couplings(), self.backprop_switch.inverted
        invertible = [
            index
            for index, (stage, coupling) in enumerate(zip(stages, couplings, strict=True))
            if coupling.beta > 0 and (self.rewiring != DUAL_RESIDUAL or not stage.branches or inverted.get(index))
        ]
        return self._plan(stages, inputs, couplings, invertible, most_together)

    def _plan(
        self,
        stages: Sequence[Stage],
        inputs: Tensor,
        couplings: Sequence[Coupling],
        invertible: Collection[int],
        most_together: int = 0,
    ) -> BackpropPlan:
        norm = functools.partial(self.architecture.norm, self)
        grid = self.stream_grid
        return self.backprop_planner.choose(self, stages, inputs, couplings, invertible, norm, grid, most_together)

    def _modes(
        self, stages: Sequence[Stage], inputs: Tensor, couplings: Sequence[Coupling]
    ) -> tuple[Sequence[Backprop], list[int]]:
        """The mode of each stage in the coming pass, and the stages whose inversion it tries."""
        planned = self.backprop in ("auto", "clips")
        switches = self.rewiring == DUAL_RESIDUAL and (planned or self.backprop == "reversible")
        modes: list[Backprop] = ["checkpoint"] * len(stages)
        probes: list[int] = []
        if not switches:
            modes = [default_backprop(self.rewiring) if planned else cast(Backprop, self.backprop)] * len(stages)
        if not torch.is_grad_enabled():  # a compiled inference graph could not read the errors
            return modes, probes
        if switches:
            modes, probes = self.backprop_switch.choose(stages, couplings, self.reconstruction_errors.by_stage)
        else:
            self._warn_of_errors()
        # A graph that is compiled keeps what the leanest modes keep.
        if planned and not torch.compiler.is_compiling():
            invertible = [index for index, mode in enumerate(modes) if mode == "reversible"]
            modes = list(self._plan(stages, inputs, couplings, invertible).modes)
        return modes, probes

    def temporal_features(
        self,
        inputs: Tensor,
        stage_outputs: list[Tensor] | None = None,
        modes: Sequence[Backprop] | None = None,
        prepared: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """From the library's own input form to features `[B, T', D]`; arguments as for `forward_features`."""
        return self.architecture.temporal_features(self, self.forward_features(inputs, stage_outputs, modes, prepared))

    def video_features(
        self,
        videos: Tensor,
        stage_outputs: list[Tensor] | None = None,
        frame_mask: Tensor | None = None,
        pixel_statistics: Tensor | None = None,
    ) -> Tensor:
        """From videos `[B, T, C, H, W]` to features `[B, T', D]`, one for every `feature_stride` frames.

        Args:
            videos: Normalised, or uint8 with `frame_mask` and `pixel_statistics`.
            stage_outputs: Receives the merged outputs of all stages.
            frame_mask: bool `[B, T]`, True where a frame is real.
            pixel_statistics: float32 `[2, C]`, mean and standard deviation by which the frames are normalised.

        Raises:
            ValueError: if `backprop="clips"` does not go with the backbone or with `stage_outputs`.
        """
        with _own_weights_in_place(self):
            plan = None
            whole = torch.compiler.is_compiling() or videos.is_meta
            if self.backprop == "auto" and not whole:
                whole = stage_outputs is not None
                if not whole and is_trained(self, videos):
                    numbers = videos.dtype if videos.is_floating_point() else self.number_dtype
                    plan = self.plan_for(videos.shape, numbers)
            if self.by_clips and not whole:
                if stage_outputs is not None:
                    raise ValueError("backprop='clips' keeps no outputs of stages: leave out output_hidden_states.")
                features = part_by_part(self, videos, frame_mask, pixel_statistics, plan)
            else:
                pixels = None if pixel_statistics is None or frame_mask is None else (frame_mask, pixel_statistics)
                if pixels is not None and self.backprop != "reversible":
                    # What is computed of them is kept, too.
                    videos, pixels = self.normalized(videos, *pixels), None
                features = self.joined_features(videos, stage_outputs, pixels=pixels)
        if self.architecture.clip_length(self) is None:
            return features
        num_features = -(-videos.shape[1] // self.architecture.feature_stride(self))
        return self.architecture.at_feature_stride(self, features, num_features)

    def normalized(self, frames: Tensor, frame_mask: Tensor, pixel_statistics: Tensor) -> Tensor:
        """Normalises uint8 frames, in the precision of the weights; arguments as of `video_features`."""
        return normalized_pixels(frames, frame_mask, pixel_statistics).to(self.number_dtype)

    @property
    def number_dtype(self) -> torch.dtype:
        """The precision of the weights."""
        kinds = (parameter.dtype for parameter in self.parameters() if parameter.is_floating_point())
        return next(kinds, torch.float32)

    def joined_features(
        self,
        videos: Tensor,
        stage_outputs: list[Tensor] | None = None,
        modes: Sequence[Backprop] | None = None,
        pixels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Features `[B, N, D]` of all clips one after the other.

        `modes` as for `forward_features`; of videos in uint8 `pixels` are `frame_mask` and `pixel_statistics`.
        """
        if pixels is None:
            features = self.temporal_features(self._library_input(videos), stage_outputs, modes)
        else:
            mask, statistics = pixels

            def prepared(frames: Tensor) -> Tensor:
                return self._library_input(self.normalized(frames, mask, statistics))

            features = self.temporal_features(videos, stage_outputs, modes, prepared)
        return features if self.architecture.clip_length(self) is None else join_clips(features, len(videos))

    def _library_input(self, videos: Tensor) -> Tensor:
        """Videos in the library's own form, cut into clips where it takes clips."""
        length = self.architecture.clip_length(self)
        if length is None:
            return self.architecture.to_library_input(videos)
        clips = self.architecture.to_library_input(cut_into_clips(videos, length))
        return clips.unflatten(0, (len(videos), -1)) if self.architecture.clips_see_each_other(self) else clips

    def forward(self, inputs: Tensor | None = None, **arguments: Any) -> Any:
        """Returns what the library's own forward returns, computed over the rewired stages.

        Args:
            inputs: What the library takes, by position or by the library's name of it.
            arguments: Others of the library's arguments, as far as the architecture's `classify` takes them.

        Raises:
            TypeError: if there is no input, or an argument is not known.
        """
        if inputs is None:
            inputs = arguments.pop(self.architecture.input_name, None)
        if inputs is None:
            raise TypeError(f"forward() needs {self.architecture.input_name}.")
        return self.architecture.classify(self, self.forward_features(inputs), **arguments)

    def _set_modes_of_wrappers(self, stages: Sequence[Stage]) -> None:
        """Puts what an architecture makes around the model's modules into the mode of the modules that it holds."""
        own = set(self.modules())
        for wrapper in (module for stage in stages for module in stage.modules):
            _set_mode(wrapper, own, self.training)

    def _warn_of_errors(self) -> None:
        # Read one step late, when the values are there and nothing has to wait for them.
        error = self.reconstruction_errors.largest()
        if not error <= LARGEST_ERROR:
            warnings.warn(
                f"The reversible backward pass reconstructed its activations with a relative error of {error:.1e}; "
                "gradients are unreliable. Use backprop='checkpoint', or stream_bits=24 or 16, which are exact.",
                stacklevel=3,
            )

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # The class is made at run time; pickle cannot name it.
        return _unpickled, (type(self).original_class,), self.__dict__


@contextlib.contextmanager
def _own_weights_in_place(model: nn.Module) -> Iterator[None]:
    """Of offloaded weights accelerate brings those of a module, not of its parts, for the module's own forward only."""
    hook = getattr(model, "_hf_hook", None)
    if hook is None:
        yield
        return
    hook.pre_forward(model)
    yield
    hook.post_forward(model, None)


def _set_mode(module: nn.Module, own: Collection[nn.Module], default: bool) -> None:
    """Puts a module that is not one of a model's `own` into training mode if one of those in it, the nearest, is."""
    if module in own:
        return
    inside = list(_nearest(module, own))
    module.training = any(nearest.training for nearest in inside) if inside else default
    for child in module.children():
        _set_mode(child, own, default)


def _nearest(module: nn.Module, own: Collection[nn.Module]) -> Iterator[nn.Module]:
    for child in module.children():
        if child in own:
            yield child
        else:
            yield from _nearest(child, own)


_REWIRED_CLASSES: dict[type[nn.Module], type[RewiredModel]] = {}


def rewired_class(original: type[nn.Module]) -> type[RewiredModel]:
    """Returns the mixture of `RewiredModel` and a library's class, the same at every call."""
    if original not in _REWIRED_CLASSES:
        attributes = {"original_class": original}
        made = type(f"Rewired{original.__name__}", (RewiredModel, original), attributes)
        _REWIRED_CLASSES[original] = made
    return _REWIRED_CLASSES[original]


def _unpickled(original: type[nn.Module]) -> RewiredModel:
    cls = rewired_class(original)
    return cls.__new__(cls)
