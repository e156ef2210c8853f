"""`backprop="clips"`: the features and gradients of one graph over all clips, and memory that does not grow."""

import contextlib
import itertools
import os
import re
import subprocess
import sys

import pytest
import torch
from architecture_cases import CASES, Case
from test_architectures import CLIP_MODELS, backbone, gradients, video
from tolerances import assert_close, assert_gradients_close, depth_of, rounding
from torch import Tensor, nn

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization, Re2TALVideoProcessor, backprop_parts
from re2tal_hf.head import HEADS
from re2tal_hf.rewired_model import RewiredModel
from re2tal_hf.rewiring import build_backbone
from re2tal_hf.training import memory_budget
from re2tal_hf.training.arguments import OptimizationArguments
from re2tal_hf.training.memory import saved_for_backward
from re2tal_hf.training.memory_budget import plan_backprop

BY_CLIP = [case for case in CASES if case.config["model_type"] in CLIP_MODELS]
BY_FRAME = [case for case in CASES if case.config["model_type"] == "image"]
apart = pytest.mark.parametrize("case", BY_CLIP + BY_FRAME, ids=lambda case: case.name)
VIDEOMAE = next(case for case in CASES if case.name == "videomae")


def frozen_norms(model: RewiredModel) -> RewiredModel:
    for module in model.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def long_video(case: Case, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two videos of several clips, the last of them not whole."""
    return video((21, *case.shape[1:])).to(dtype)


def in_parts(model: RewiredModel, videos: Tensor, together: int) -> dict[str, Tensor]:
    """Gradients by one graph over all clips, which are drawn for some at a time."""
    model.zero_grad()
    torch.manual_seed(7)
    frames = together * model.architecture.clip_length(model)
    torch.cat([model.video_features(part) for part in videos.split(frames, 1)], 1).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.training
@pytest.mark.parametrize(
    ("case", "rewiring"),
    [*((case, "re2tal") for case in BY_CLIP + BY_FRAME), (VIDEOMAE, "none"), (VIDEOMAE, "dr2net")],
    ids=lambda value: getattr(value, "name", value),
)
def test_gradients_are_those_of_one_graph(case, rewiring, monkeypatch):
    monkeypatch.setattr(backprop_parts, "FRAMES_TOGETHER", 16)
    model = frozen_norms(backbone(case, "plain", rewiring, **case.stochastic).double())
    if rewiring == "dr2net":
        model.set_coupling([0.6, 0.4])
    videos = long_video(case)
    length = model.architecture.clip_length(model)
    expected = in_parts(model, videos, max(1, 8 // length))
    model.backprop, model.memory_budget = "clips", 2**40
    state = torch.get_rng_state()
    found = gradients(model, videos)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.plan.together == max(1, 8 // length) and set(model.plan.modes) == {"plain"}
    assert model.plan.step == pytest.approx(4 / 3, abs=0.01)
    assert_gradients_close(found, expected, bound=1e-10)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_share_of_the_clips_gives_the_gradients_of_all_in_the_mean(share, monkeypatch):
    monkeypatch.setattr(backprop_parts, "FRAMES_TOGETHER", 4)
    model = backbone(VIDEOMAE, "clips").double()
    model.memory_budget = 2**40
    videos = long_video(VIDEOMAE)[:, :16]
    features, expected = model.video_features(videos), gradients(model, videos)
    number = videos.shape[1] // (model.plan.together * model.architecture.clip_length(model))
    draws = list(itertools.combinations(range(number), round(share * number)))
    model.backprop_share = share
    found = []
    for draw in draws:
        order = sorted(range(number), key=lambda part: part not in draw)  # those that are drawn come first
        monkeypatch.setattr(torch, "randperm", lambda _, order=order: torch.tensor(order))
        found.append(gradients(model, videos))
    assert torch.equal(model.video_features(videos), features)
    mean = {name: sum(one[name] for one in found) / len(draws) for name in expected}
    assert_gradients_close(mean, expected, bound=1e-10)
    first = next(iter(expected))
    assert len({found_one[first].sum().item() for found_one in found}) == len(draws) > 1


@pytest.mark.training
@pytest.mark.parametrize("name", ["videomae", "image_convnext"])
def test_one_clip_at_a_time_is_leaner_where_memory_is_scarce(name, monkeypatch):
    case = next(case for case in CASES if case.name == name)
    model = frozen_norms(backbone(case, "clips", **case.stochastic).double())
    videos = long_video(case)
    model.memory_budget = 2**40
    plan = model.plan_for(videos.shape, videos.dtype)
    assert plan.together > 1
    (leanest, slowest), (fastest, _) = plan.choices[0], plan.choices[-1]
    videos, found = videos[:, : 3 * model.architecture.clip_length(model)], {}
    for budget in (leanest, fastest, 2**40):
        # Random numbers are drawn for as many clips as go together.
        monkeypatch.setattr(backprop_parts, "FRAMES_TOGETHER", 2 * model.architecture.clip_length(model))
        model.memory_budget = budget
        found[budget] = gradients(model, videos)
        assert model.plan.together == 1 and model.plan.kept <= budget
        assert (set(model.plan.modes) == {"plain"}) == (budget >= fastest)
        assert_gradients_close(found[budget], found[leanest], bound=1e-10)
    assert 1.5 < slowest < 1.8
    model.memory_budget = leanest - 1
    with pytest.raises(ValueError, match="take a smaller batch, fewer or smaller frames, or a larger budget"):
        gradients(model, videos)


def test_as_many_clips_together_as_memory_allows():
    model = backbone(VIDEOMAE, "clips").train()
    shape = (2, 640, 3, 32, 32)
    model.memory_budget = 2**40
    plan = model.plan_for(shape)
    assert plan.together == backprop_parts.FRAMES_TOGETHER // (2 * 4)
    assert str(plan).startswith("backprop=clips, 8 at a time of 2x4x3x32x32: the backbone keeps")
    fastest, gradients_of_one = plan.choices[-1][0], 2 * plan.largest_module
    model.memory_budget = 3 * fastest + 2 * gradients_of_one
    assert model.plan_for(shape).together == 3 and model.plan.kept == 3 * fastest
    model.memory_budget -= 1
    assert model.plan_for(shape).together == 2
    assert model.plan_for((2, 4, 3, 32, 32)).together == 1


@pytest.mark.training
@apart
def test_nothing_is_kept_but_the_video(case, monkeypatch):
    monkeypatch.setattr(backprop_parts, "FRAMES_TOGETHER", 16)
    model = frozen_norms(backbone(case, "clips", **case.stochastic))
    model.memory_budget = 2**40
    for frames in (32, 64):
        videos = torch.zeros(1, frames, 3, *case.shape[1:])
        with saved_for_backward([videos, *model.parameters(), *model.buffers()]) as saved:
            features = model.video_features(videos)
        assert features.shape == (1, -(-frames // model.architecture.feature_stride(model)), features.shape[2])
        assert saved.total() == 0


@pytest.mark.training
@apart
def test_inference_is_the_same(case):
    model = backbone(case, "plain").double().eval()
    videos = long_video(case)
    with torch.no_grad():
        expected = model.video_features(videos)
        model.backprop = "clips"
        assert_close(model.video_features(videos), expected)
    assert model.plan is None


def test_features_that_are_interpolated_across_clips(monkeypatch):
    monkeypatch.setattr(backprop_parts, "FRAMES_TOGETHER", 8)
    model = backbone(VIDEOMAE, feature_stride=3).double().train()
    videos = long_video(VIDEOMAE)
    expected, features = gradients(model, videos), model.video_features(videos)
    model.backprop, model.memory_budget = "clips", 2**40
    assert_gradients_close(gradients(model, videos), expected, bound=1e-10)
    assert_close(model.video_features(videos), features)


@pytest.mark.parametrize(
    ("case", "setting"),
    [
        (BY_FRAME[0], {"temporal_shift": 0.125, "adapter_width": 4}),
        (BY_FRAME[0], {"adapter_width": 4}),
        (VIDEOMAE, {"adapter_width": 4}),
    ],
)
def test_what_sees_the_whole_video_is_refused(case, setting):
    with pytest.raises(ValueError, match="see clips, or a limited part .* looks along the whole video: choose"):
        build_backbone({**case.config, **setting}, backprop="clips")
    model = build_backbone({**case.config, **setting})
    model.backprop = "clips"
    with pytest.raises(ValueError, match="looks along the whole video"):
        model.video_features(video(case.shape))


def test_batch_norms_must_be_frozen():
    model = backbone(BY_FRAME[0], "clips").train()
    with pytest.raises(ValueError, match="the batch norm 'bn1' takes its statistics .* freeze the norms"):
        model.video_features(video(BY_FRAME[0].shape))


def test_outputs_of_stages_are_refused():
    with pytest.raises(ValueError, match="leave out output_hidden_states"):
        backbone(VIDEOMAE, "clips").video_features(video(VIDEOMAE.shape), [])


def test_the_librarys_own_forward_takes_its_clips_together():
    model = backbone(VIDEOMAE, "clips").train()
    model.memory_budget = 2**40
    model(video((4, 32, 32))).last_hidden_state.sum().backward()
    assert model.plan.together == 0 and all(p.grad is not None for p in model.parameters())


SWIN = next(case for case in CASES if case.name == "video_swin")


def localizer(backprop: str, case: Case = VIDEOMAE) -> Re2TALForTemporalActionLocalization:
    torch.manual_seed(0)
    head = {"hidden_size": 16, "num_levels": 2, "num_head_layers": 1, "num_attention_heads": 2}
    network = {**case.config, **case.stochastic}
    config = Re2TALConfig(backbone_config=network, head_config=head, num_labels=2, backprop=backprop)
    return Re2TALForTemporalActionLocalization(config).double().train()


def batch(frames: int = 64) -> dict:
    labels = [{"segments": torch.tensor([[4.0, 20.0]]), "class_labels": torch.tensor([1])}] * 2
    return {"pixel_values_videos": video((frames, 32, 32)).double(), "labels": labels}


def localizer_gradients(model: nn.Module, inputs: dict, *, steps: int = 1) -> dict[str, Tensor]:
    """Gradients of a step or several, of which each draws from a seed of its own."""
    model.zero_grad()
    for step in range(steps):
        torch.manual_seed(step)
        model(**inputs).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.training
@pytest.mark.parametrize("frozen", [{}, {"stages": 1}, {"backbone": True}, {"norms": True}], ids=str)
def test_a_localizer_with_frozen_parts_and_accumulated_gradients(frozen):
    found = {}
    for backprop in ("plain", "clips"):
        model = localizer(backprop)
        model.freeze(**frozen)
        model.memory_budget = 2**40
        # All clips at a time: the same random numbers in both.
        found[backprop] = localizer_gradients(model, batch(32), steps=2)
    assert_gradients_close(found["clips"], found["plain"], bound=1e-10)
    assert any(name.startswith("model.backbone") for name in found["clips"]) == (frozen in ({}, {"norms": True}))


@pytest.mark.training
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_frames_that_become_numbers_some_at_a_time(dtype, monkeypatch):
    monkeypatch.setattr(backprop_parts, "FRAMES_TOGETHER", 8)
    processor = Re2TALVideoProcessor(num_frames=24)
    lengths = (24, 13)
    frames = [torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8) for n in lengths]
    floats, pixels = processor.prepare(frames), processor.prepare(frames, normalized=False)
    assert pixels["pixel_values_videos"].dtype == torch.uint8
    alone = processor.prepare(frames[:1], normalized=False)["pixel_values_videos"]
    assert alone.data_ptr() == frames[0].data_ptr()
    floats["pixel_values_videos"] = floats["pixel_values_videos"].to(dtype)
    found = {}
    for name, inputs in (("floats", floats), ("pixels", pixels)):
        model = localizer("clips").to(dtype)
        model.memory_budget = 2**40
        found[name] = localizer_gradients(model, {**inputs, "labels": batch()["labels"]})
    assert_gradients_close(found["pixels"], found["floats"], bound=1e-6)
    with torch.no_grad():
        model.eval().backprop = "plain"
        assert_close(model(**pixels).logits, model(**floats).logits)
    with pytest.raises(ValueError, match=r"pixel_statistics has shape \[2, 4\]; it must be \[2, 3\]"):
        model(**pixels | {"pixel_statistics": torch.ones(2, 4)})
    with pytest.raises(ValueError, match=r"pixel_values_videos is float\d+; with pixel_statistics it must be uint8"):
        model(**pixels | {"pixel_values_videos": floats["pixel_values_videos"].float()})
    with pytest.raises(ValueError, match="pixel_statistics belongs to pixel_values_videos"):
        model(temporal_features=torch.ones(1, 8, 24), pixel_statistics=pixels["pixel_statistics"])


def test_the_plan_of_a_training_counts_frames_features_and_the_largest_block():
    model = localizer("clips").float()
    arguments = OptimizationArguments(memory_budget="1GB")
    needed = {}
    for frames in (4096, 8192):
        with pytest.raises(ValueError, match="for the head, the frames and their features") as refused:
            plan_backprop(model, (1, frames, 3, 32, 32), arguments, 10**6, contextlib.nullcontext)
        needed[frames] = float(re.search(r"needs ([\d.]+) MB", str(refused.value))[1]) * 1e6
    pixels, features = 3 * 32 * 32, 2 * 4 * 24 / 2
    kept_by_head = (needed[8192] - needed[4096]) / 4096 - pixels - features
    assert 2 * 16 * 4 < kept_by_head < 80 * 16 * 4
    plan = plan_backprop(model, (1, 8192, 3, 32, 32), arguments, 10**9, contextlib.nullcontext)
    assert plan.together == 16 and set(plan.modes) == {"plain"}
    with pytest.raises(ValueError, match="needs"):
        plan_backprop(model, (1, 8192, 3, 32, 32), arguments, int(needed[8192]) - 10**5, contextlib.nullcontext)
    plan_backprop(model, (1, 8192, 3, 32, 32), arguments, int(needed[8192]) + 10**5, contextlib.nullcontext)


@pytest.mark.training
def test_auto_goes_by_clips_where_the_whole_is_too_large():
    model = localizer("plain").eval()
    inputs = batch()
    expected = localizer_gradients(model, inputs)
    model.backprop, model.memory_budget = "auto", 2**40
    assert_gradients_close(localizer_gradients(model, inputs), expected, bound=1e-10)
    leanest, backbone = model.plan.choices[0][0], model.model.backbone
    assert model.plan.together == 0 and not backbone.by_clips and not model.plan.reason
    model.memory_budget = leanest - 1
    assert_gradients_close(localizer_gradients(model, inputs), expected, bound=1e-10)
    assert model.plan.together > 0 and model.plan.kept < leanest and backbone.by_clips
    assert model.head.recomputes and model.criterion.recomputes
    plan = backbone.plan_for((2, 64, 3, 32, 32), torch.float64)
    assert str(plan).splitlines()[-1].startswith("  By clips, since the whole is too large: The memory budget leaves")
    short = batch(4)
    assert localizer_gradients(model, short) and model.plan.together == 0 and not model.head.recomputes
    model.model(short["pixel_values_videos"], output_hidden_states=True)
    wide = build_backbone({**VIDEOMAE.config, "adapter_width": 4}, backprop="auto").train()
    wide.memory_budget = 1
    with pytest.raises(ValueError, match="The memory budget leaves 0.0 MiB"):
        wide.video_features(video(VIDEOMAE.shape))


@pytest.mark.training
def test_a_training_takes_the_fastest_way_that_its_budget_allows():
    model, arguments = localizer("auto").float(), OptimizationArguments(memory_budget="1GB")
    model.head = HEADS["actionformer"].head_class(24, 2, hidden_size=16, num_levels=2, attention_window=4)
    shape, found = (1, 8192, 3, 32, 32), {}
    for budget in (4 * 10**8, 33 * 10**7, 4 * 10**7):
        plan = plan_backprop(model, shape, arguments, budget, contextlib.nullcontext)
        planner = model.model.backbone.backprop_planner
        found[planner.clips, planner.recomputes_head] = plan
        assert model.plan is plan and model.memory_budget == plan.budget < budget
    assert list(found) == [(False, False), (False, True), (True, True)]
    reasons = [plan.reason.partition(":")[0] for plan in found.values()]
    lean = "he head and its loss run again in the backward pass"
    assert reasons == ["", f"T{lean}", f"By clips, and t{lean}"]
    assert found[True, True].together > 1 and "otherwise the training would need" in str(found[True, True])
    with pytest.raises(ValueError, match="budget is 1.0 MB, and .* for the head, the frames and their features"):
        plan_backprop(model, shape, arguments, 10**6, contextlib.nullcontext)


@pytest.mark.training
def test_predicted_bytes_of_clips_and_of_a_head_are_those_measured():
    model = localizer("clips").float()
    model.memory_budget = 2**22
    videos = torch.zeros(1, 640, 3, 32, 32)
    plan = model.model.backbone.plan_for(videos.shape)
    assert 1 < plan.together < 16
    together = videos[:, : plan.together * 4].clone()
    with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
        model.model.backbone.joined_features(together, modes=plan.modes)
    assert saved.total() == pytest.approx(plan.kept, rel=0.02)
    for leanly in (False, True):
        predicted, _ = memory_budget._bytes_of_head(model, (1, 10000, 3, 32, 32), model.device, leanly)
        features = torch.zeros(1, 24, 5000, requires_grad=True)
        with saved_for_backward([*model.parameters(), *model.buffers()]) as saved:
            model.run_head(features, torch.ones(1, 5000, dtype=torch.bool), leanly)
        assert predicted == pytest.approx(saved.total(), rel=0.02)


SEVERAL = """
import sys
from functools import partial
from pathlib import Path
import forks, torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from accelerate import Accelerator
from tolerances import assert_gradients_close
from test_backprop_clips import SWIN, VIDEOMAE, batch, localizer, localizer_gradients

def train(case, find_unused: bool) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = localizer("clips", case).eval()
    model.memory_budget = 2**40
    model.model.backbone.backprop_planner.chunk = chunk = 64 if case is SWIN else 0
    inputs = batch(160 if chunk else 64)
    prepared = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=find_unused)
    synchronised = []
    def hook(state, bucket):
        synchronised.append([id(p) for p in bucket.parameters()])
        return allreduce_hook(state, bucket)
    prepared.register_comm_hook(None, hook)
    for step in range(2):
        own = [label | {"class_labels": torch.tensor([accelerator.process_index])} for label in inputs["labels"]]
        with accelerator.accumulate(prepared):
            assert accelerator.sync_gradients == (step == 1)
            accelerator.backward(prepared(**inputs | {"labels": own}).loss)
    sent = [parameter for bucket in synchronised for parameter in bucket]
    assert len(sent) == len(set(sent)) == len(list(model.parameters())), synchronised
    assert model.plan.chunk == chunk
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    mean = {}
    for index in (0, 1):
        own = [label | {"class_labels": torch.tensor([index])} for label in inputs["labels"]]
        model.backprop = "plain"
        for name, grad in localizer_gradients(model, inputs | {"labels": own}).items():
            mean[name] = mean.get(name, 0) + grad / 2
    assert_gradients_close(found, mean, bound=1e-10)

for case, find_unused in ((VIDEOMAE, False), (VIDEOMAE, True), (SWIN, False)):
    ends = forks.run_group([partial(train, case, find_unused)] * 2, Path(sys.argv[1]))
    assert [status for status, _ in ends] == [0, 0], ends
"""


@pytest.mark.training
def test_two_processes_send_every_gradient_once(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SEVERAL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_autocast_and_the_gradient_of_the_video():
    found = {}
    for backprop in ("plain", "clips"):
        model = localizer(backprop).float()
        model.memory_budget = 2**40
        inputs = batch(32)
        videos = inputs["pixel_values_videos"] = inputs["pixel_values_videos"].float().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found[backprop] = localizer_gradients(model, inputs)
        found[backprop]["video"] = videos.grad
    # Of a weight that all levels share autocast has one copy, on which one graph sums its gradients in bfloat16.
    shared = {name for name in found["plain"] if name.startswith(("head.classification", "head.boundary"))}
    for names, bound in ((found["plain"].keys() - shared, 0.0), (shared, rounding(torch.bfloat16))):
        clips, plain = ({name: found[backprop][name] for name in names} for backprop in ("clips", "plain"))
        assert_gradients_close(clips, plain, depth=depth_of(model), bound=bound)
