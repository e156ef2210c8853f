"""The page of a run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_factory import LABELS, write_run
from video_factory import numbered_frames, write_video

from re2tal_hf.commands.report import main
from re2tal_hf.data.annotation_set import AnnotatedVideo, AnnotationSet
from re2tal_hf.metrics.tal_map.diagnosis import diagnose, match
from re2tal_hf.metrics.tal_map.tal_map import Segments
from re2tal_hf.report.advice import advice
from re2tal_hf.report.videos import stories
from re2tal_hf.training.training_run import TrainingRun

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
EVIL = "<script>alert(1)</script>"
VIDEOS = {
    "a": [("jump", 0.0, 1.0), ("run", 1.0, 2.0)],
    "b": [("jump", 0.0, 1.0)],
    f"c{EVIL.replace('/', '')}": [("run", 0.5, 1.5)],
}
# A right one, a wrong class, and a border that is off.
FOUND = {"a": [("jump", 0.9, 0.0, 1.0), ("jump", 0.8, 1.0, 2.0)], "b": [("jump", 0.7, 0.0, 1.0)]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / EVIL.replace("/", ""))
    results = {
        video: [{"label": label, "score": score, "segment": [start, end]} for label, score, start, end in rows]
        for video, rows in FOUND.items()
    }
    for which in ("best", "last"):
        (folder / which / "detections.json").write_text(json.dumps({"results": results}), encoding="utf-8")
    database = {
        video: {
            "subset": "validation",
            "duration": 2.0,
            "annotations": [{"label": label, "segment": [start, end]} for label, start, end in actions],
        }
        for video, actions in VIDEOS.items()
    }
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    (tmp_path / "videos").mkdir()
    for video in ("a", "b"):
        write_video(tmp_path / "videos" / f"{video}.mp4", numbered_frames(50))
    return folder


def report(run: Path, *options: str) -> int:
    places = ["--annotations", str(run.parent / "annotations.json"), "--videos", str(run.parent / "videos")]
    return main([str(run), *places, *options])


@pytest.mark.training
def test_one_file_says_all_and_runs_nothing(run, capsys):
    assert report(run) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "c&lt;script&gt;alert(1)" in page
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page)
    assert page.count("data:image/png;base64,") == 5
    assert page.count("data:image/jpeg;base64,") == 16  # of two videos that can be read
    assert "0.457 after epoch 2 of 28" in page and "7 with 41 actions" in page
    assert "a: 1 of 2 actions found, 1 wrong detections, 2.0 s" in page
    assert "jump, 1.00 to 2.00 s: score 0.80, wrong label" in page
    assert "&#39;run&#39; is seen as &#39;jump&#39; (1 times)" in page
    rows = re.findall(r"<tr><td>(\w+)</td><td>([\d.]+)</td>", page)
    assert rows == [("run", "0.000"), ("jump", "0.833")]  # the worst first


@pytest.mark.training
def test_points_are_right_within_seconds(tmp_path):
    head = {"model_type": "spotting", "hidden_size": 16, "num_levels": 3}
    recipe = ("model.head_config={model_type: spotting}", "data.points=middle", "processor.point_window=1")
    folder = write_run(tmp_path / "run", overrides=recipe, head_config=head)
    actions = [{"label": "jump", "segment": [10, 10]}, {"label": "run", "segment": [30, 32]}]
    database = {"a": {"subset": "validation", "duration": 60, "annotations": actions}}
    (tmp_path / "annotations.json").write_text(json.dumps({"database": database}), encoding="utf-8")
    # To either side half the tolerance counts: 2.4 s are near enough, 2.6 s are an error of the time.
    rows = [("jump", 0.9, 12.4), ("run", 0.8, 33.6)]
    found = {"a": [{"label": label, "score": score, "segment": [time, time]} for label, score, time in rows]}
    (folder / "best" / "detections.json").write_text(json.dumps({"results": found}), encoding="utf-8")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", numbered_frames(600))
    assert report(folder) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "a: 1 of 2 actions found, 1 wrong detections, 60.0 s" in page and "at tolerance 5 s" in page
    assert "jump, 12.40 s: score 0.90, true positive" in page and "run, 33.60 s: score 0.80, localization" in page
    assert "run, 31.00 s: missed" in page and "wrong label" not in page


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_a_desktop_and_a_phone(run, width):
    playwright = pytest.importorskip("playwright.sync_api")
    assert report(run) == 0
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto((run / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0 && one.width > 20)")
        assert page.locator(".track i").evaluate_all("all => all.every(one => one.getBoundingClientRect().width >= 2)")
        browser.close()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda run: (run / "recipe.yaml").unlink(), "holds no recipe.yaml: name the folder of a run"),
        (lambda run: (run / "log.jsonl").write_text(""), "log.jsonl is empty: let the run finish an epoch"),
        (lambda run: (run / "best" / "detections.json").write_text("{}"), "is not of the form"),
    ],
)
def test_what_is_no_measured_run_is_refused(run, prepare, message, capsys):
    prepare(run)
    assert report(run) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (run / "report.html").exists()


def test_a_folder_is_no_page(run, capsys):
    assert report(run, "--output", str(run)) == 1
    assert f"--output {run} is a folder: name a file." in capsys.readouterr().err


def matching_of(annotations: AnnotationSet):
    """The detections of `FOUND`, and the actions of `VIDEOS`."""
    names = {video.video_id: number for number, video in enumerate(annotations.videos)}
    rows = sorted(((names[v], *row) for v, of in FOUND.items() for row in of), key=lambda row: -row[2])
    predictions = Segments(
        np.array([row[0] for row in rows]),
        np.array([LABELS.index(row[1]) for row in rows]),
        np.array([row[3:] for row in rows]),
    )
    references = Segments(
        np.repeat(np.arange(len(annotations.videos)), [len(video.labels) for video in annotations.videos]),
        np.concatenate([video.labels for video in annotations.videos]),
        np.concatenate([video.segments for video in annotations.videos]),
    )
    return match(predictions, np.array([row[2] for row in rows]), references, np.array([0.5]))


@pytest.fixture
def annotations() -> AnnotationSet:
    videos = [
        AnnotatedVideo(
            name, "validation", None, 2.0, np.array([row[1:] for row in rows]), [LABELS.index(r[0]) for r in rows]
        )
        for name, rows in VIDEOS.items()
    ]
    return AnnotationSet(videos, list(LABELS), {})


def test_the_worst_videos_and_the_best(annotations):
    worst, best = stories(annotations, matching_of(annotations), 0)
    assert [(video.found, video.actions, video.wrong) for video in worst] == [(0, 1, 0), (1, 2, 1)]
    assert [(video.name, video.found, video.wrong) for video in best] == [("b", 1, 0)]
    assert [(bar.left, bar.width, bar.is_right) for bar in worst[1].truth] == [(0, 50, True), (50, 50, False)]
    assert [bar.note for bar in worst[1].detections] == [
        "jump, 0.00 to 1.00 s: score 0.90, true positive",
        "jump, 1.00 to 2.00 s: score 0.80, wrong label",
    ]


@pytest.mark.parametrize(
    ("scores", "kind", "expected"),
    [
        ([0.2, 0.3, 0.5], "missed", "The mAP still rose at the end: training.epochs=45"),
        ([0.2, 0.5, 0.4], "localization", "localization costs 0.30 mAP: times are off"),
        ([0.2, 0.5, 0.4], "wrong label", "wrong label costs 0.30 mAP: classes are confused, most often 'run' is seen"),
    ],
)
def test_advice_follows_from_what_errors_cost(annotations, scores, kind, expected):
    figures = diagnose(matching_of(annotations), LABELS, [2.0] * 3)
    figures["cost"] = dict.fromkeys(figures["cost"], 0.0) | {kind: 0.3}
    log = [{"epoch": number, "map": score} for number, score in enumerate(scores, 1)]
    run = TrainingRun(Path("run"), "best", {"training": {"epochs": 30}}, {}, log, {}, {}, {})
    lines = advice(run, figures)
    assert any(line.startswith(expected) for line in lines)
    assert sum("costs" in line for line in lines) == 1 and "Only 4 actions are measured by" in lines[-1]
