"""What tests of several localization heads share: masks, candidates, and a small detector that learns."""

import torch
from tolerances import assert_close

from re2tal_hf import Re2TALConfig, Re2TALForTemporalActionLocalization
from re2tal_hf.temporal_segments import segment_iou

BACKBONE = {
    "model_type": "video_swin",
    "embed_dim": 8,
    "depths": [2],
    "num_heads": [1],
    "patch_size": [2, 4, 4],
    "window_size": [2, 3, 3],
}


def prefix_mask(lengths, total):
    return torch.arange(total)[None] < torch.tensor(lengths)[:, None]


def concatenated(tensors, prefix, num_levels):
    levels = [tensors[f"{prefix}.{level}"] for level in range(num_levels)]
    return torch.cat(levels, dim=-1).transpose(1, 2)


def candidates_of(predictions, index, top_k=2000, min_score=0.001):
    """The best scores of one sequence, whatever their class, and their segments."""
    scores = predictions.logits[index].sigmoid() * predictions.point_mask[index].unsqueeze(-1)
    points, labels = torch.nonzero(scores > min_score, as_tuple=True)
    scores = scores[points, labels]
    order = scores.argsort(descending=True, stable=True)[:top_k]
    return predictions.segments[index][points[order]], scores[order], labels[order]


def stored_detections(tensors, prefix):
    return [tensors[f"{prefix}.{name}"] for name in ("segments", "scores", "labels")]


def seconds(segments, meta):
    frames = segments * meta["snippet_stride"] + meta["offset_frames"]
    times = (frames + meta.get("window_start_frame", 0)) / meta["fps"]
    return times.clamp(0, meta["duration"])


def tiny_model(head_config):
    return Re2TALForTemporalActionLocalization(
        Re2TALConfig(backbone_config=BACKBONE, head_config=head_config, num_labels=2)
    )


def small_videos():
    """Two windows in which actions are frames of one colour: red is class 0, green class 1."""
    videos = torch.randn(2, 32, 3, 8, 8) * 0.1
    actions = [[(6, 14, 0), (20, 28, 1)], [(4, 20, 1)]]
    labels = []
    for video, annotated in zip(videos, actions, strict=True):
        for start, end, label in annotated:
            video[start:end, label] += 2
        segments = torch.tensor([[start, end] for start, end, _ in annotated], dtype=torch.float32)
        labels.append({"segments": segments, "class_labels": torch.tensor([label for *_, label in annotated])})
    return videos, labels


def assert_learns(model, num_steps, learning_rate):
    """Trains on two windows: the loss falls to a fifth, and the best of every class there is its action."""
    videos, labels = small_videos()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(num_steps):
        loss = model.train()(videos, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5, losses[:: num_steps // 5]
    with torch.no_grad():
        output = model.eval()(videos)
    for index, target in enumerate(labels):
        scores = output.logits[index].sigmoid() * output.point_mask[index].unsqueeze(-1)
        for segment, label in zip(target["segments"], target["class_labels"], strict=True):
            best = output.pred_segments[index][scores[:, label].argmax()]
            assert segment_iou(best[None], segment[None]) > 0.7, (best, segment)


def assert_survives_saving(model, folder):
    """Saved, loaded, and the same in outputs and losses."""
    videos, labels = small_videos()
    model.save_pretrained(folder)
    loaded, report = Re2TALForTemporalActionLocalization.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    found, expected = (one.double().eval()(videos.double(), labels=labels) for one in (loaded, model))
    for name in ("loss", "logits", "pred_segments"):
        assert_close(getattr(found, name), getattr(expected, name), what=name)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
