import pytest
from matplotlib import pyplot
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from re2tal_hf.training.timeline import draw_timeline

DETECTIONS = [
    {"label": "Throw", "score": 0.9, "start": 2.0, "end": 4.0},
    {"label": "Throw", "score": 0.2, "start": 1.0, "end": 5.0},
    {"label": "Catch", "score": 0.6, "start": 6.0, "end": 7.5},
]
TRUTH = [{"label": "Serve", "start": 1.0, "end": 3.0}, {"label": "Catch", "start": 6.0, "end": 8.0}]


def bars(figure: Figure) -> list[tuple[float, float, float]]:
    """(left, right, darkness of the colour) of each bar in drawing order."""
    drawn = []
    for collection in figure.axes[0].collections:
        assert isinstance(collection, PolyCollection)
        box = collection.get_paths()[0].get_extents()
        drawn.append((box.x0, box.x1, 3 - sum(collection.get_facecolor()[0][:3])))
    return drawn


def lanes(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_one_bar_per_segment_at_its_seconds():
    figure = draw_timeline(DETECTIONS, duration=10.0, ground_truth=TRUTH)
    expected = [(s["start"], s["end"]) for s in [*DETECTIONS, *TRUTH]]
    assert sorted(bar[:2] for bar in bars(figure)) == sorted(expected)
    assert figure.axes[0].get_xlim() == (0.0, 10.0)


def test_a_point_is_a_line():
    rows = [{"label": "Goal", "score": 0.9, "start": 4.0, "end": 4.0}]
    [point, truth] = draw_timeline(rows, duration=10.0, ground_truth=[{**rows[0], "end": 6.0}]).axes[0].collections
    assert len(point.get_edgecolor()) == 1 and point.get_linewidth()[0] > 0 and len(truth.get_edgecolor()) == 0


def test_lanes_true_classes_first_then_by_best_score():
    figure = draw_timeline(DETECTIONS, duration=10.0, ground_truth=TRUTH)
    assert lanes(figure) == ["Catch", "Serve", "Throw"]
    assert lanes(draw_timeline(DETECTIONS, duration=10.0)) == ["Throw", "Catch"]


def test_stronger_detections_are_darker_and_drawn_later():
    figure = draw_timeline(DETECTIONS[:2], duration=10.0)
    (left, _, weak), (_, _, strong) = bars(figure)
    assert left == 1.0
    assert strong > weak > 0


def test_classes_beyond_the_limit_are_counted_not_drawn():
    figure = draw_timeline(DETECTIONS, duration=10.0, ground_truth=TRUTH, max_classes=1)
    assert lanes(figure) == ["Catch"]
    assert len(bars(figure)) == 2
    assert "2 more classes not shown" in figure.axes[0].get_xlabel()


def test_nothing_detected_says_so():
    figure = draw_timeline([], duration=10.0)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no actions"]


def test_picture_is_written_without_pyplot(tmp_path):
    path = tmp_path / "timeline.png"
    labels = [{**DETECTIONS[0], "label": "$unbalanced {math"}]
    draw_timeline(labels, duration=10.0, title="a_$1$.mp4").savefig(path)
    height, width, _ = pyplot.imread(path).shape
    assert (width, height) > (1000, 100)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"end": 1.0}, r"detections\[1\] ends before it starts"),
        ({"end": float("nan")}, r"detections\[1\] ends before it starts"),
        ({"score": 1.5}, r"detections\[1\] has a score outside 0 to 1"),
    ],
)
def test_bad_detection_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        draw_timeline([DETECTIONS[0], {**DETECTIONS[0], **change}], duration=10.0)


def test_missing_field_is_named():
    with pytest.raises(ValueError, match=r"ground_truth\[0\] lacks label, end"):
        draw_timeline([], duration=10.0, ground_truth=[{"start": 1.0}])


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan")])
def test_bad_duration_is_refused(duration):
    with pytest.raises(ValueError, match="duration"):
        draw_timeline([], duration=duration)
