import json

import pytest
import torch
from golden_weights import read_golden
from head_cases import (
    HEAD_CASES,
    assert_detections_of_opentad,
    assert_gradients_of_reference_head,
    candidates_of,
    concatenated,
    converted_reference,
    features_of,
    prefix_mask,
    stored_detections,
)
from tolerances import assert_close, assert_same_detections, depth_of, rounding

from re2tal_hf.head import decode_segments
from re2tal_hf.head_actionformer import ActionFormerConfig, ActionFormerHead
from re2tal_hf.head_pyramid import sinusoidal_positions
from re2tal_hf.loss_points import LocalizationLoss
from re2tal_hf.temporal_segments import suppress

CASE = HEAD_CASES["actionformer"]


# Shapes, masks and positions


def test_standardized_input_forgets_scale_and_offset_of_the_channels():
    head = CASE.trained(standardize_input=True)
    features, mask = torch.randn(2, 8, 21, dtype=torch.float64), prefix_mask([21, 13], 21)
    scale, offset = torch.rand(2, 8, 1).double() * 9 + 1, torch.randn(2, 8, 1).double() * 50
    expected, found = head(features, mask), head(features * scale + offset, mask)
    assert_close(found.logits, expected.logits, bound=1e-6)  # the epsilon under the variance is not scaled
    plain = CASE.trained(standardize_input=False)
    assert (plain(features * scale + offset, mask).logits - plain(features, mask).logits).abs().max() > 0.01


@pytest.mark.parametrize("padding", ["opentad", "actionformer"])
def test_reference_padding_changes_borders_only_by_its_presence(padding):
    head = CASE.trained(padding=padding, max_length=64)
    features = torch.randn(1, 8, 21, dtype=torch.float64)
    short = head(features, torch.ones(1, 21, dtype=torch.bool))
    longer = torch.nn.functional.pad(features, (0, 30))
    padded = head(longer, prefix_mask([21], 51))
    assert short.points.shape == padded.points.shape == (64 + 32 + 16, 4)
    expected = CASE.real(short, 0)
    for name, found in CASE.real(padded, 0).items():
        assert_close(found, expected[name], what=name)


@pytest.mark.parametrize("length", [1, 3, 33])
def test_points_are_the_steps_of_all_levels(length):
    output = CASE.trained()(*features_of(length))
    assert output.offsets.shape == (1, len(output.points), 2) and (output.offsets >= 0).all()
    expected = [stride * step for stride in (1, 2, 4) for step in range(-(-length // stride))]
    assert output.points[output.point_mask[0], 0].tolist() == expected


def test_ranges_and_strides_of_points():
    head = ActionFormerHead(8, 4, hidden_size=16)
    points = head(torch.randn(1, 8, 32), torch.ones(1, 32, dtype=torch.bool)).points
    assert points.dtype == torch.float32
    assert points[:, 1:].unique(dim=0).tolist() == [
        [0, 4, 1], [4, 8, 2], [8, 16, 4], [16, 32, 8], [32, 64, 16], [64, 10000, 32]
    ]  # fmt: skip


def test_segments_are_decoded_in_feature_steps():
    output = CASE.trained()(torch.randn(1, 8, 8).double(), torch.ones(1, 8, dtype=torch.bool))
    output.offsets = torch.full_like(output.offsets, 1.5)
    segments = decode_segments(output)
    assert segments.dtype == torch.float64
    assert segments[0, 8 + 1].tolist() == [2 - 3, 2 + 3]
    output.offsets = output.offsets.bfloat16()
    assert decode_segments(output).dtype == torch.float32


def test_positions_are_those_of_the_paper():
    table = sinusoidal_positions(50, 6)
    assert table.shape == (50, 6)
    angle = 37 / 10000 ** (2 / 6)
    expected = torch.tensor([angle]).double().sin() / 6**0.5
    assert_close(table[37, 2:3], expected)


def test_positions_are_stretched_for_longer_inputs():
    head = CASE.trained(use_position_embedding=True, max_length=10)
    assert torch.equal(head._positions(7, 16), sinusoidal_positions(7, 16))
    stretched = head._positions(20, 16)
    table = sinusoidal_positions(10, 16)
    # Linear interpolation between the centres of stretched steps.
    assert_close(stretched[1], 0.75 * table[0] + 0.25 * table[1])


# Numbers


def test_gradients_are_those_of_finite_differences():
    head = CASE.trained(num_levels=2, attention_window=3)
    features = torch.randn(1, 8, 5, dtype=torch.float64, requires_grad=True)
    mask = prefix_mask([4], 5)
    assert torch.autograd.gradcheck(lambda x: head(x, mask).logits, (features,))


def test_drop_path_drops_whole_sequences_in_training_only():
    head = CASE.trained(drop_path=0.5)
    features, mask = torch.randn(6, 8, 16).double(), torch.ones(6, 16, dtype=torch.bool)
    features = features[:1].expand(6, -1, -1)
    assert torch.equal(head(features, mask).logits[0], head(features, mask).logits[5])
    head.train()
    outcomes = head(features, mask).logits
    assert len({round(float(x.detach().sum()), 6) for x in outcomes}) > 1


def test_every_level_has_its_own_window():
    head = CASE.trained(attention_window=[5, 3, None], num_stem_layers=2)
    assert [block.attention.window for block in (*head.stem, *head.pyramid)] == [5, 5, 3, None]
    with torch.no_grad():
        same = CASE.trained(attention_window=[5, 5, 5])
        one = CASE.build(attention_window=5).double().eval()
        one.load_state_dict(same.state_dict())
        features, mask = torch.randn(2, 8, 21, dtype=torch.float64), prefix_mask([21, 13], 21)
        assert torch.equal(one(features, mask).logits, same(features, mask).logits)
        # A step beyond the windows of a level is not seen there; full attention sees it.
        features, mask = torch.randn(2, 8, 48, dtype=torch.float64), torch.ones(2, 48, dtype=torch.bool)
        changed = features.clone()
        changed[:, :, 44] += 1
        for window, seen in ((3, False), (None, True)):
            head = CASE.trained(attention_window=[3, 3, window])
            before, after = (head.extract_pyramid(x, mask)[0] for x in (features, changed))
            assert bool((before[2][:, 0] != after[2][:, 0]).any()) == seen
            assert torch.equal(before[1][:, 0], after[1][:, 0])


@pytest.mark.parametrize(
    ("windows", "multiple"), [(None, 32), (19, 32 * 18), ([13] * 5 + [None], 192), ([None] * 5 + [3], 64)]
)
def test_the_references_pad_to_whole_windows_of_every_level(windows, multiple):
    # As opentad/models/detectors/actionformer.py: the largest product of stride and window, made even.
    assert ActionFormerConfig(num_levels=6, attention_window=windows).length_multiple == multiple


def test_input_is_disturbed_in_training_only():
    seen = []
    for settings in ({"input_dropout": 0.5}, {"input_noise": 2.0}, {}):
        head = CASE.trained(**settings)
        head.embedding[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        features, mask = torch.randn(8, 8, 21, dtype=torch.float64), prefix_mask([21] * 7 + [13], 21)
        for training in (True, False):
            head.train(training)(features, mask)
    real = torch.nn.functional.pad(mask, (0, 3))
    expected = torch.nn.functional.pad(features * 0, (0, 3)).transpose(1, 2)
    dropped, _, noisy, quiet, same, plain = seen
    assert torch.equal(same, plain) and all((x[~real] == expected[~real]).all() for x in seen)
    share = dropped[:7, :21] == 0
    assert torch.equal(share.all(dim=1), share.any(dim=1)) and 0.2 < share.double().mean() < 0.8
    spread = (noisy - quiet)[real].std()
    assert 1.7 < spread < 2.3


def test_dropped_channels_keep_the_mean():
    head = CASE.trained(input_dropout=0.75)
    seen = []
    head.embedding[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head.train()(torch.ones(64, 8, 4).double(), torch.ones(64, 4, dtype=torch.bool))
    assert seen[0].unique().tolist() == [0.0, 4.0]


# Building


def test_weights_carry_the_prior_and_the_scale_of_the_branches():
    first = CASE.build()
    prior = first.classification.predictor.bias.sigmoid()
    assert_close(prior, torch.full((4,), 0.01))
    assert all((scale == 0.5).all() for scale in (first.stem[0].mlp_scale, first.pyramid[0].mlp_scale))


# Parity with OpenTAD (A4) and actionformer_release (A5).


class Reference:
    """A reference file, its weights in our head, and its settings."""

    def __init__(self, path):
        self.tensors, self.metadata = read_golden(path)
        self.config = json.loads(self.metadata["config"])
        self.project = "opentad" if "projection" in self.config else "actionformer"
        model = converted_reference((self.tensors, self.metadata))
        self.head, self.loss_options = model.head, model.config.loss_config
        self.num_labels = model.config.num_labels

    def inputs(self, dtype):
        """The training batch, and targets."""
        if self.project == "opentad":
            features, mask = self.tensors["input"], self.tensors["masks"]
        else:
            lengths = json.loads(self.metadata["lens"])[:3]
            features = torch.zeros(3, 24, max(lengths))
            for index, length in enumerate(lengths):
                features[index, :, :length] = self.tensors[f"feats.{index}"]
            mask = prefix_mask(lengths, max(lengths))
        targets = [
            {
                "segments": self.tensors[f"gt.{index}.segments"],
                "class_labels": self.tensors[f"gt.{index}.labels"],
            }
            for index in range(len(mask))
        ]
        return features.to(dtype), mask, targets

    def evaluations(self):
        """Names, features and masks of the evaluated batches, with the precisions stored."""
        if self.project == "opentad":
            features, mask, _ = self.inputs(torch.float32)
            yield "eval.", features, mask, ("f32.", "f64.")
            for name in ("over.0.", "over.1."):
                features = self.tensors[f"{name}input"]
                yield name, features, torch.ones(1, features.shape[2], dtype=torch.bool), ("",)
        else:
            for index in range(4):
                features = self.tensors[f"feats.{index}"][None]
                stored = ("f32.", "f64.") if index == 0 else ("f32.",)
                name, mask = f"eval.{index}.", torch.ones(1, features.shape[2], dtype=torch.bool)
                yield name, features, mask, stored


def reference_files(folder):
    files = sorted(folder.glob("a4_*.safetensors")) + sorted(folder.glob("a5_*.safetensors"))
    assert files
    return [Reference(path) for path in files]


@pytest.fixture(scope="module")
def references(model_goldens):
    return reference_files(model_goldens)


@torch.no_grad()
def test_predictions_of_both_projects(references):
    for reference in references:
        for name, features, mask, stored in reference.evaluations():
            for precision in stored:
                dtype = torch.float64 if precision == "f64." else torch.float32
                head = reference.head.to(dtype).eval()
                output = head(features.to(dtype), mask)
                real = output.point_mask
                prefix = precision + name
                for kind, found in (("cls_logits", output.logits), ("reg_offsets", output.offsets)):
                    expected = concatenated(reference.tensors, prefix + kind, head.num_levels)
                    assert found.shape == expected.shape
                    assert_close(found[real], expected[real], depth=depth_of(head), what=(prefix, kind))


@torch.no_grad()
def test_intermediate_features_of_both_projects(references):
    for reference in references:
        name, features, mask, _ = next(reference.evaluations())
        head = reference.head.float().eval()
        levels, masks = head.extract_pyramid(features, mask)
        compared = 0
        for kind, found in (("proj", levels), ("neck", head.neck(levels, masks))):
            for level, (x, real) in enumerate(zip(found, masks, strict=True)):
                key = f"f32.{name}{kind}.{level}"
                if key in reference.tensors:
                    expected = reference.tensors[key].transpose(1, 2)
                    assert_close(x[real], expected[real], depth=depth_of(head), what=key)
                    compared += 1
        assert compared >= head.num_levels


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "f32."), (torch.float64, "f64.")])
def test_losses_and_gradients_of_both_projects(references, dtype, precision):
    # In double precision the references still compute the focal loss (actionformer_release the
    # boundary loss, too) in single precision: that is the limit of what can be compared.
    limit = rounding(torch.float32)
    for reference in references:
        features, mask, targets = reference.inputs(dtype)
        features = features.clone().requires_grad_()
        head = reference.head.to(dtype).train()
        head.zero_grad()
        output = head(features, mask)
        output.logits = output.logits.float()
        if reference.project == "actionformer":
            output.offsets = output.offsets.float()
        loss = LocalizationLoss(**reference.loss_options)
        first, second = loss(output, targets), loss(output, targets)
        evaluated = loss.eval()(output, targets)
        for step, losses in (("train", first), ("train2", second), ("evalloss", evaluated)):
            check_losses(reference, f"{precision}{step}.", losses, limit)
        first["loss"].backward()
        golden = reference.tensors, reference.metadata
        with_norms = precision == "f64."
        assert_gradients_of_reference_head(
            golden, reference.project, reference.head, features, mask, precision, with_norms, limit
        )


def check_losses(reference, prefix, losses, limit):
    if f"{prefix}cls_loss" not in reference.tensors:
        assert prefix.endswith("evalloss.") and reference.project == "actionformer"
        return
    total = "final_loss" if reference.project == "actionformer" else "cost"
    names = {"loss": total, "classification": "cls_loss", "regression": "reg_loss"}
    for ours, theirs in names.items():
        expected = reference.tensors[prefix + theirs]
        assert_close(losses[ours], expected, depth=depth_of(reference.head), bound=limit, what=prefix + theirs)


def test_normalizer_after_a_step_of_both_projects(references):
    for reference in references:
        loss = LocalizationLoss(**reference.loss_options)
        features, mask, targets = reference.inputs(torch.float32)
        loss(reference.head.float()(features, mask), targets)
        key = "f32.train.loss_normalizer_after"
        stored = reference.tensors.get(key, reference.metadata.get("loss_normalizer_after_step1"))
        assert_close(loss.normalizer, torch.as_tensor(float(stored)))


# Detections from double precision: the references round before they suppress, and single precision decides ties.


@torch.no_grad()
def test_detections_of_opentad(references):
    for reference in (r for r in references if r.project == "opentad" and r.num_labels > 1):
        features, mask, _ = reference.inputs(torch.float64)
        # Their voting does nothing per class.
        predictions = reference.head.double().eval()(features, mask).scored_segments()
        assert_detections_of_opentad((reference.tensors, reference.metadata), predictions)


@torch.no_grad()
def test_detections_of_actionformer_release(references):
    for reference in (r for r in references if r.project == "actionformer"):
        test = reference.config["test_cfg"]
        head = reference.head.double().eval()
        for index in range(4):
            features = reference.tensors[f"feats.{index}"][None].double()
            output = head(features, torch.ones(1, features.shape[2], dtype=torch.bool))
            segments, scores, labels = candidates_of(output.scored_segments(), 0, top_k=10**6)
            long_enough = segments[:, 1] - segments[:, 0] > test["duration_thresh"]
            segments, scores, labels = suppress(
                segments[long_enough],
                scores[long_enough],
                labels[long_enough],
                sigma=test["nms_sigma"],
                min_score=test["min_score"],
                max_detections=test["max_seg_num"],
                per_class=test["multiclass_nms"],
            )
            frame_rate, duration = (25, 8) if index == 3 else (30, 10 + index)
            found = ((segments * 4 + 8) / frame_rate).clamp(0, duration), scores, labels
            expected = stored_detections(reference.tensors, f"det.{index}")
            assert_same_detections(found, expected, 2e-4, 1e-5)
