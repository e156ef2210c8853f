"""The whole model: shapes, losses, freezing, saving and loading, and parity with a whole reference detector."""

import copy
import json

import pytest
import torch
from architecture_cases import CASES
from golden_weights import read_golden
from tolerances import assert_close, assert_gradients_close, assert_norms_close, assert_same_detections, depth_of
from torchvision.ops import StochasticDepth

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALForVideoClassification,
    Re2TALModel,
    Re2TALVideoClassificationConfig,
)
from re2tal_hf.conversion.converted_model import Converted, convert
from re2tal_hf.conversion.opentad import plan_opentad
from re2tal_hf.conversion.options_file import Options
from re2tal_hf.conversion.source import Source
from re2tal_hf.licensing.origins import FROM_SCRATCH
from re2tal_hf.temporal_segments import suppress

BACKBONE = {
    "model_type": "video_swin",
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [1, 2],
    "patch_size": [2, 4, 4],
    "window_size": [2, 3, 3],
}
HEAD = {"hidden_size": 16, "num_levels": 3, "num_stem_layers": 1, "branch_scale": 0.5}


def small_config(**changes) -> Re2TALConfig:
    return Re2TALConfig(**{"backbone_config": BACKBONE, "head_config": HEAD, "num_labels": 3, **changes})


def batch(num_frames: int = 17):
    videos = torch.randn(2, num_frames, 3, 16, 20)
    frame_mask = torch.ones(2, num_frames, dtype=torch.bool)
    frame_mask[1, 9:] = False
    labels = [
        {"segments": torch.tensor([[1.5, 9.0]]), "class_labels": torch.tensor([2])},
        {"segments": torch.zeros(0, 2), "class_labels": torch.zeros(0, dtype=torch.long)},
    ]
    return videos, frame_mask, labels


def test_shapes_and_loss():
    model = Re2TALForTemporalActionLocalization(small_config())
    videos, frame_mask, labels = batch()
    output = model(videos, frame_mask=frame_mask, labels=labels)
    points = 12 + 6 + 3  # 9 features, completed to the coarsest step of 4
    assert output.logits.shape == (2, points, 3)
    assert output.pred_segments.shape == (2, points, 2)
    assert output.point_mask[1, :12].tolist() == [True] * 5 + [False] * 7
    assert_close(output.loss, sum(output.loss_dict.values()))
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_predicted_segments_are_in_frames():
    model = Re2TALForTemporalActionLocalization(small_config()).eval()
    with torch.no_grad():
        model.head.boundary.predictor.weight.zero_()
        model.head.boundary.predictor.bias.fill_(1.0)
        output = model(torch.randn(1, 16, 3, 16, 20))
    # Point 3 of the finest level is feature 3, frame 6; its boundaries are one feature, two frames, away.
    assert_close(output.pred_segments[0, 3], torch.tensor([4.0, 8.0]))
    # The first point of the second level: stride 2 features, 4 frames.
    assert_close(output.pred_segments[0, 8], torch.tensor([-4.0, 4.0]))


def test_features_in_place_of_the_video():
    model = Re2TALForTemporalActionLocalization(small_config()).eval()
    videos, frame_mask, _ = batch()
    features = model.model(videos, frame_mask)
    assert features.last_hidden_state.shape == (2, 9, model.model.feature_size)
    expected = model(videos, frame_mask)
    found = model(temporal_features=features.last_hidden_state, feature_mask=features.feature_mask)
    assert_close(found.logits, expected.logits, depth=depth_of(model))
    other_layout = features.last_hidden_state.transpose(1, 2).contiguous().transpose(1, 2)
    again = model(temporal_features=other_layout, feature_mask=features.feature_mask)
    assert other_layout.stride() != features.last_hidden_state.stride() and torch.equal(again.logits, found.logits)
    with pytest.raises(ValueError, match="either"):
        model(videos, temporal_features=features.last_hidden_state)
    with pytest.raises(ValueError, match="either"):
        model()


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint"])
def test_modes_agree_through_the_whole_model(backprop):
    videos, frame_mask, labels = batch()
    model = Re2TALForTemporalActionLocalization(small_config()).double()
    labels = [{**label, "segments": label["segments"].double()} for label in labels]
    gradients = {}
    for mode in ("plain", backprop):
        replica = copy.deepcopy(model)
        replica.model.backprop = mode
        torch.manual_seed(2)
        replica(videos.double(), frame_mask, labels).loss.backward()
        gradients[mode] = {n: p.grad for n, p in replica.named_parameters()}
    assert_gradients_close(gradients[backprop], gradients["plain"])


def trainable(model) -> set[str]:
    return {name for name, parameter in model.base_model.backbone.named_parameters() if parameter.requires_grad}


def test_freezing():
    model = Re2TALForTemporalActionLocalization(small_config())
    everything = trainable(model)
    model.train().freeze(stages=1, norms=True)
    names = trainable(model)
    assert names
    assert not any(n.startswith(("patch_embed", "features.0")) or "norm" in n for n in names)
    assert any(n.startswith("features.2") for n in names)
    for _ in range(2):
        assert not model.model.backbone.norm.training and model.model.backbone.training
        model.eval().train()
    model.freeze(backbone=True)
    assert not trainable(model)
    videos, frame_mask, labels = batch()
    model(videos, frame_mask, labels).loss.backward()
    assert all(p.grad is None for p in model.model.parameters())
    model.unfreeze()
    assert trainable(model) == everything and model.model.backbone.norm.training
    for stages in (3, -1, 1.5, True):
        with pytest.raises(ValueError, match="has 2 stages"):
            model.freeze(stages=stages)


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint", "plain"])
def test_frozen_norms_keep_their_statistics_in_training(backprop):
    config = next(case.config for case in CASES if case.config["model_type"] == "video_resnet")
    model = Re2TALModel(Re2TALConfig(backbone_config=config, backprop=backprop))
    before = {name: value.clone() for name, value in model.named_buffers()}
    videos = torch.randn(2, 8, 3, 32, 32)
    model.freeze(norms=True)
    for frozen in (True, False):
        model.train()
        assert any(parameter.requires_grad for parameter in model.parameters())
        model(videos).last_hidden_state.square().mean().backward()
        moved = [name for name, value in model.named_buffers() if not torch.equal(value, before[name])]
        assert bool(moved) != frozen
        model.unfreeze()


def test_what_was_frozen_in_training_is_not_frozen_where_the_model_is_loaded(tmp_path):
    model = Re2TALForTemporalActionLocalization(small_config())
    model.freeze(backbone=True, norms=True)
    model.save_pretrained(tmp_path)
    loaded = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path).train()
    assert trainable(loaded) == {name for name, _ in loaded.model.backbone.named_parameters()}
    assert loaded.model.backbone.norm.training
    assert "freez" not in (tmp_path / "config.json").read_text()


def test_hidden_states_and_tuples_only_when_asked_for():
    videos, frame_mask, labels = batch()
    localizer = Re2TALForTemporalActionLocalization(small_config()).eval()
    classifier = Re2TALForVideoClassification(
        Re2TALVideoClassificationConfig(backbone_config=BACKBONE, num_labels=3)
    ).eval()
    for model, targets in ((localizer, labels), (classifier, torch.tensor([0, 2])), (localizer.model, None)):
        given = {} if targets is None else {"labels": targets}
        plain = model(videos, frame_mask, **given)
        assert plain.hidden_states is None
        asked = model(videos, frame_mask, **given, output_hidden_states=True)
        assert [state.shape[1:] for state in asked.hidden_states] == [(9, 4, 5, 8), (9, 2, 3, 16)]
        found = model(videos, frame_mask, **given, return_dict=False)
        assert isinstance(found, tuple) and len(found) == len(plain)
        assert torch.equal(found[0], plain[0])
        model.config.output_hidden_states, model.config.return_dict = True, False
        found = model(videos, frame_mask, **given)
        assert isinstance(found, tuple) and len(found[-1]) == 2
        model.config.output_hidden_states, model.config.return_dict = False, True
        with pytest.raises(TypeError, match="lables"):
            model(videos, lables=targets)


@pytest.mark.parametrize("backprop", ["reversible", "checkpoint", "plain"])
def test_hidden_states_have_gradients(backprop):
    model = Re2TALModel(small_config(backprop="plain")).double()
    reference = copy.deepcopy(model)
    model.backprop = backprop
    videos = batch()[0].double()
    for one in (model, reference):
        torch.manual_seed(1)  # of the stochastic depth
        output = one(videos, output_hidden_states=True)
        (output.last_hidden_state.mean() + sum(state.square().mean() for state in output.hidden_states)).backward()
    gradients = ({n: p.grad for n, p in one.named_parameters()} for one in (model, reference))
    assert_gradients_close(*gradients)


@pytest.mark.parametrize(("rewiring", "backprop"), [("re2tal", "reversible"), ("re2tal", "plain"), ("none", "plain")])
def test_gradient_checkpointing_is_a_mode_of_the_backward_pass(rewiring, backprop):
    model = Re2TALForTemporalActionLocalization(small_config(rewiring=rewiring, backprop=backprop))
    model.gradient_checkpointing_disable()
    assert model.backprop == backprop and not model.is_gradient_checkpointing
    for _ in range(2):
        model.gradient_checkpointing_enable()
        assert model.backprop == model.model.backbone.backprop == "checkpoint" and model.is_gradient_checkpointing
    model.model.gradient_checkpointing_disable()
    assert model.backprop == backprop and not model.is_gradient_checkpointing


@pytest.mark.parametrize("name", ["videomae", "vivit", "timesformer", "vjepa2"])
def test_attention_is_chosen_where_the_library_has_a_choice(name, tmp_path):
    backbone = next(case.config for case in CASES if case.config["model_type"] == name)
    config = small_config(backbone_config=backbone)
    model = Re2TALForTemporalActionLocalization(config)
    usual = model.model.backbone.config._attn_implementation
    model.save_pretrained(tmp_path)
    eager = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.model.backbone.config._attn_implementation == "eager"
    assert Re2TALModel(small_config(backbone_config=backbone)).backbone.config._attn_implementation == usual
    if usual != "eager":
        eager.set_attn_implementation("sdpa")
        assert eager.model.backbone.config._attn_implementation == "sdpa"
    for impossible in ("magic", *(["sdpa"] if usual == "eager" else [])):
        with pytest.raises(ValueError, match="magic|scaled_dot_product"):
            Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, attn_implementation=impossible)


def test_attention_is_not_chosen_where_there_is_one(tmp_path):
    model = Re2TALModel(small_config())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'video_swin' has none to choose"):
        Re2TALModel.from_pretrained(tmp_path, attn_implementation="sdpa")
    with pytest.raises(ValueError, match="'video_swin' has none to choose"):
        model.set_attn_implementation("sdpa")


def test_save_and_load(tmp_path):
    model = Re2TALForTemporalActionLocalization(small_config(id2label={0: "a", 1: "b", 2: "c"})).eval()
    model.criterion.normalizer.fill_(123.456)
    model.save_pretrained(tmp_path)
    loaded, info = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    videos, frame_mask, _ = batch()
    assert_close(loaded(videos, frame_mask).logits, model(videos, frame_mask).logits, depth=depth_of(model))
    plain = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, backprop="plain")
    assert plain.model.backprop == "plain"
    half = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.model.backbone.patch_embed.proj.weight.dtype == torch.bfloat16
    assert half.criterion.normalizer.dtype == torch.float32


@pytest.mark.parametrize("head", ["actionformer", "spotting", "tridet", "vsgn"])
@pytest.mark.parametrize(
    "device_map", [{"model": "cpu", "head": "disk", "criterion": "cpu"}, {"": "disk"}], ids=["head", "everything"]
)
def test_weights_on_a_disk(tmp_path, head, device_map):
    if device_map == {"": "disk"}:
        pytest.importorskip("accelerate", "1.15", reason="earlier versions refuse a model that is all on a disk")
    config = small_config(head_config={"model_type": head, "hidden_size": 32, "num_levels": 3})
    model = Re2TALForTemporalActionLocalization(config).eval()
    model.save_pretrained(tmp_path / "model")
    offloaded = Re2TALForTemporalActionLocalization.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded"
    )
    assert all(parameter.is_meta for parameter in offloaded.head.parameters())
    videos, frame_mask, _ = batch()
    with torch.no_grad():
        expected, found = model(videos, frame_mask), offloaded.eval()(videos, frame_mask)
    assert_close(found.logits, expected.logits, depth=depth_of(model))
    assert_close(found.pred_segments, expected.pred_segments, depth=depth_of(model))


def test_the_strides_of_a_video_do_not_matter():
    model = Re2TALForTemporalActionLocalization(small_config()).eval()
    videos, frame_mask, _ = batch()
    channels_last = videos.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert channels_last.stride() != videos.stride()
    with torch.no_grad():
        expected, found = model(videos, frame_mask), model(channels_last, frame_mask)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.pred_segments, expected.pred_segments)


def test_backbone_alone_is_loaded_into_a_localizer(tmp_path):
    backbone = Re2TALModel(small_config())
    backbone.save_pretrained(tmp_path)
    model, info = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"]
    assert all(name.startswith(("head.", "criterion.")) for name in info["missing_keys"])
    state = model.model.state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(state[name], value), name
    assert model.criterion.normalizer == 100
    bias = model.head.classification.predictor.bias
    assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))


def test_initialisation_is_reproducible_and_sane():
    models = []
    for _ in range(2):
        torch.manual_seed(4)
        models.append(Re2TALForTemporalActionLocalization(small_config()))
    for (name, a), (_, b) in zip(*(m.state_dict().items() for m in models), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewiring": "magic"}, "rewiring"),
        ({"backprop": "magic"}, "backprop"),
        ({"rewiring": "none", "backprop": "reversible"}, "cannot be inverted"),
        ({"head_config": {"model_type": "magic"}}, "head_config"),
        ({"head_config": {"hiden_size": 3}}, "hiden_size"),
        ({"loss_config": {"magic": 3}}, "magic"),
        ({"backbone_config": {"model_type": "magic"}}, "backbone_config"),
    ],
)
def test_wrong_configurations_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        Re2TALForTemporalActionLocalization(small_config(**change))


VIDEO = torch.randn(2, 4, 3, 8, 8)
LABELS = [{"segments": torch.tensor([[0.0, 2.0]]), "class_labels": torch.tensor([1])}] * 2


def labels(**change):
    return [LABELS[0], LABELS[0] | change]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"pixel_values_videos": VIDEO[0]},
            r"pixel_values_videos has shape \[4, 3, 8, 8\]; it must be \[batch, frames",
        ),
        ({"pixel_values_videos": VIDEO[:0]}, r"pixel_values_videos has shape \[0, .*: it is empty"),
        ({"pixel_values_videos": VIDEO.numpy()}, r"pixel_values_videos is ndarray float32 .*torch.from_numpy"),
        ({"pixel_values_videos": VIDEO.to(torch.uint8)}, "pixel_values_videos is uint8 .*floating-point.*processor"),
        ({"pixel_values_videos": VIDEO.double()}, r"pixel_values_videos is float64 on cpu, the model float32.*\.to\("),
        ({"pixel_values_videos": VIDEO.movedim(2, 4)}, r"pixel_values_videos has shape .*movedim\(4, 2\)"),
        ({"pixel_values_videos": VIDEO.movedim(2, 1)}, r"pixel_values_videos has shape .*transpose\(1, 2\)"),
        (
            {"pixel_values_videos": VIDEO, "frame_mask": torch.ones(2, 5)},
            r"frame_mask is float32 \[2, 5\]; .*bool \[2, 4\]",
        ),
        ({"pixel_values_videos": VIDEO, "frame_mask": [[True] * 4] * 2}, "frame_mask is .*it must be a tensor"),
        ({"pixel_values_videos": VIDEO, "feature_mask": torch.ones(2, 2)}, "feature_mask belongs to temporal_features"),
        ({"pixel_values_videos": VIDEO, "frame_masks": 1}, "no argument 'frame_masks'; did you mean 'frame_mask'"),
        ({"temporal_features": torch.randn(2, 16, 4)}, "temporal_features has shape .*transpose"),
        ({"pixel_values_videos": VIDEO, "labels": LABELS[0]}, "labels is .*list of dictionaries"),
        ({"pixel_values_videos": VIDEO, "labels": LABELS[:1]}, "labels has 1 entries for a batch of 2"),
        (
            {"pixel_values_videos": VIDEO, "labels": labels(segments=torch.ones(1, 3))},
            r"labels\[1\]: segments is float32 \[1, 3\]",
        ),
        (
            {"pixel_values_videos": VIDEO, "labels": labels(segments=torch.tensor([[2.0, 1.0]]))},
            r"labels\[1\]: .*\[2.0, 1.0\]",
        ),
        (
            {"pixel_values_videos": VIDEO, "labels": labels(segments=torch.tensor([[0.0, torch.nan]]))},
            r"labels\[1\]: .*nan",
        ),
        (
            {"pixel_values_videos": VIDEO, "labels": labels(class_labels=torch.tensor([9]))},
            r"labels\[1\]: class_labels must lie in 0..2, got 9",
        ),
        (
            {"pixel_values_videos": VIDEO, "labels": labels(class_labels=torch.tensor([1.0]))},
            r"labels\[1\]: class_labels is float32",
        ),
        (
            {"pixel_values_videos": VIDEO, "labels": [LABELS[0], {"labels": 3}]},
            r"labels\[1\] has \['labels'\]; it must have segments",
        ),
    ],
)
def test_wrong_arguments_are_named_with_the_fix(arguments, message):
    torch.manual_seed(0)
    model = Re2TALForTemporalActionLocalization(small_config(num_labels=3))
    with pytest.raises((TypeError, ValueError), match=message):
        model(**arguments)


def test_right_arguments_in_every_form_are_taken():
    model = Re2TALForTemporalActionLocalization(small_config(num_labels=3)).eval()
    expected = model(VIDEO, labels=LABELS)
    mask = torch.ones(2, 4, dtype=torch.bool)
    for given in (mask, mask.long(), mask.float()):
        assert torch.equal(model(VIDEO, frame_mask=given).logits, expected.logits)
    whole = [{"segments": torch.tensor([[0, 2]]), "class_labels": torch.tensor([1], dtype=torch.int32), "id": "a"}] * 2
    assert torch.equal(model(VIDEO, labels=whole).loss, expected.loss)
    point = labels(segments=torch.tensor([[1.0, 1.0], [-3.0, 9.0]]), class_labels=torch.tensor([0, 2]))
    assert model(VIDEO, labels=point).loss.isfinite()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(VIDEO.to(torch.bfloat16), labels=LABELS).loss.isfinite()


class WholeDetector:
    """The reference detector A7: frames to detections, with both weight sets of its checkpoint."""

    def __init__(self, folder):
        self.tensors, self.metadata = read_golden(folder / "a7_re2swin_actionformer_thumos.safetensors")
        path = folder / "a7_re2swin_actionformer_thumos.opentad_checkpoint.pth"
        self.checkpoint = torch.load(path, weights_only=True)
        pixels = self.tensors["frames"][:, 0].transpose(1, 2).float()  # [B, T, C, H, W]
        mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        self.videos = (pixels - mean) / std
        self.frame_mask = self.tensors["masks"].repeat_interleave(2, dim=1)

    def converted(self, weights: str) -> Converted:
        options = Options(json.loads(self.metadata["config"]), "the reference's config")
        state = {name.removeprefix("module."): tensor for name, tensor in self.checkpoint[weights].items()}
        return convert(plan_opentad(Source("the reference", state, FROM_SCRATCH), options, {}))

    def model(self, weights: str) -> Re2TALForTemporalActionLocalization:
        model = self.converted(weights).model
        assert isinstance(model, Re2TALForTemporalActionLocalization)
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                module.p = 0.0  # as in the reference's training step
        model.freeze(norms=True)
        return model

    def labels(self) -> list[dict]:
        return [
            {
                "segments": self.tensors[f"gt.{i}.segments"] * 2,  # the reference's are in features
                "class_labels": self.tensors[f"gt.{i}.labels"],
            }
            for i in range(2)
        ]


@pytest.fixture(scope="module")
def reference(model_goldens) -> WholeDetector:
    return WholeDetector(model_goldens)


@pytest.mark.parametrize("weights", ["state_dict", "state_dict_ema"])
def test_whole_detector_features_and_logits(reference, weights):
    model = reference.model(weights).eval()
    with torch.no_grad():
        features = model.model(reference.videos, reference.frame_mask).last_hidden_state
        output = model(reference.videos, reference.frame_mask)
    golden = reference.tensors
    expected = golden[f"{weights}.backbone_feat"].transpose(1, 2)
    valid = reference.tensors["masks"]
    assert_close(features[valid], expected[valid], depth=depth_of(model))
    logits = torch.cat([golden[f"{weights}.cls_logits.{i}"] for i in range(3)], 2).transpose(1, 2)
    mask = output.point_mask
    assert_close(output.logits[mask], logits[mask], depth=depth_of(model))


@pytest.mark.parametrize("weights", ["state_dict", "state_dict_ema"])
def test_whole_detector_detections(reference, weights):
    """In double precision: the reference rounds before it suppresses, and some of its numbers lie 1e-3 from a tie."""
    model = reference.model(weights).double().eval()
    with torch.no_grad():
        output = model(reference.videos.double(), reference.frame_mask)
    mask = output.point_mask
    # Detections of both windows of one video: seconds, NMS within and over the windows.
    metas, classes = json.loads(reference.metadata["metas"]), 5
    segments, scores, labels = [], [], []
    for index, meta in enumerate(metas):
        probabilities = output.logits[index][mask[index]].sigmoid()
        frames = output.pred_segments[index][mask[index]]
        best, order = probabilities.flatten().sort(descending=True, stable=True)
        order = order[best > 0.001][:2000]
        seconds = frames[order // classes] / 2 * meta["snippet_stride"] + meta["window_start_frame"]
        segments.append((seconds / meta["fps"]).clamp(0, meta["duration"]))
        scores.append(probabilities.flatten()[order])
        labels.append(order % classes)
    # The reference rounds to 0.01 s and 1e-4 before the NMS over windows; we do not, except here.
    found = suppress(
        torch.cat(segments).round(decimals=2), torch.cat(scores).round(decimals=4), torch.cat(labels),
        method="soft", sigma=0.7, min_score=0.001, max_detections=2000,
    )  # fmt: skip
    expected = [reference.tensors[f"{weights}.det.v0.{part}"] for part in ("segments", "scores", "labels")]
    assert_same_detections(found, expected, 0.011, 1.1e-4)


def test_whole_detector_training_step(reference):
    model = reference.model("state_dict").train()
    output = model(reference.videos, reference.frame_mask, reference.labels())
    golden, depth = reference.tensors, depth_of(model)
    for name, part in (("cls_loss", "classification"), ("reg_loss", "regression")):
        assert_close(output.loss_dict[part], golden[f"state_dict.train.{name}"], depth=depth, what=name)
    assert_close(output.loss, golden["state_dict.train.cost"], depth=depth)
    assert_close(model.criterion.normalizer, golden["state_dict.train.loss_normalizer_after"])
    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = json.loads(reference.metadata["gradnorm_state_dict"])
    our_name = reference.converted("state_dict").plan.names
    norms = {our_name[name]: norm for name, norm in norms.items()}
    assert len(norms) > 100
    assert_norms_close({name: gradients[name] for name in norms}, norms, depth=depth)
    stored = {key for key in golden if key.startswith("state_dict.grad.")}
    stored = {our_name[key.removeprefix("state_dict.grad.")]: golden[key] for key in stored}
    shaped = {name: gradients[name].reshape(expected.shape) for name, expected in stored.items()}
    assert_gradients_close(shaped, stored, depth=depth)
