"""Windows of several videos in one batch: what each video is answered, whatever is under way with it."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from broken_localizer import BrokenLocalizer, make_batches
from run_factory import small_pipeline
from tolerances import assert_same_actions
from transformers.image_utils import SizeDict
from video_factory import numbered_frames, write_video

from re2tal_hf.data.detection_files import to_json
from re2tal_hf.data.video_limits import VideoLimits
from re2tal_hf.serving import worker
from re2tal_hf.serving.batches import Batches
from re2tal_hf.serving.jobs import Job, JobQueue
from re2tal_hf.serving.localizer import Localizer, VideoWindow
from re2tal_hf.serving.tasks import Take, Work
from re2tal_hf.serving.worker import WorkerProcess

LIMITS = VideoLimits(max_seconds=60, max_megabytes=1, max_frames=1000, max_gigapixels=1)
MINUTE = 60.0
Run = Callable[..., tuple[list[Job], JobQueue]]


class Held:
    """Work that begins when it is let."""

    def __init__(self, work: Work):
        self.work = work
        self.let = threading.Event()

    def __call__(self, take: Take) -> None:
        assert self.let.wait(MINUTE)
        self.work(take)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Lets a queue work on videos that have all come before it begins; what is done then is all."""

    def run_all(
        work: Work,
        names: list[str],
        paths: list[Path] | None = None,
        seconds: float = MINUTE,
        meanwhile: Callable[[JobQueue, list[Job]], None] = lambda queue, jobs: None,
    ) -> tuple[list[Job], JobQueue]:
        held = Held(work)
        queue = JobQueue(held, tmp_path / "uploads", max_jobs=32, max_run_seconds=seconds, keep_seconds=MINUTE)
        try:
            jobs = [queue.reserve("me", name, {"threshold": 0.0}) for name in names]
            for job, path in zip(jobs, paths or [tmp_path] * len(jobs), strict=True):
                job.folder.mkdir(parents=True)
                queue.start(job, path)
            held.let.set()
            meanwhile(queue, jobs)
            for job in jobs:
                job.ended.result(MINUTE)
        finally:
            held.let.set()
            queue.close()
        assert not any(job.folder.exists() for job in jobs)
        return jobs, queue

    return run_all


def ends(jobs: list[Job]) -> list[tuple[str, str | None]]:
    return [(job.status.value, job.error if job.result is None else json.loads(job.result)[0]["label"]) for job in jobs]


def test_windows_fill_batches_in_the_order_in_which_videos_came(run: Run):
    localizer = BrokenLocalizer(2)
    jobs, _ = run(Batches(localizer), ["a:1", "b:3", "c:1", "d:2"])
    assert localizer.batches == [["a1", "b1"], ["b2", "b3"], ["c1", "d1"], ["d2"]]
    assert ends(jobs) == [("done", name) for name in "abcd"]
    assert [(job.done, job.windows) for job in jobs] == [(1, 1), (3, 3), (1, 1), (2, 2)]
    localizer = BrokenLocalizer(1)
    run(Batches(localizer), ["a:1", "b:2"])
    assert localizer.batches == [["a1"], ["b1"], ["b2"]]


def test_a_broken_file_spoils_its_own_job_alone(run: Run):
    localizer = BrokenLocalizer(4)
    jobs, _ = run(Batches(localizer), ["a:1", "refused:2", "b:1", "c:3"])
    # The window of it that could be read is left out.
    assert localizer.batches == [["a1", "b1", "c1", "c2"], ["c3"]]
    assert ends(jobs) == [("done", "a"), ("failed", "refused is no video"), ("done", "b"), ("done", "c")]


def test_where_a_batch_fails_each_of_its_videos_is_tried_alone(run: Run, caplog: pytest.LogCaptureFixture):
    localizer = BrokenLocalizer(4)
    jobs, _ = run(Batches(localizer), ["a:1", "fault:1", "b:1", "c:2", "d:1"])
    assert localizer.batches == [["a1", "fault1", "b1", "c1"], ["a1"], ["fault1"], ["b1"], ["c1", "c2"], ["d1"]]
    assert [status for status, _ in ends(jobs)] == ["done", "failed", "done", "done", "done"]
    assert jobs[1].error is not None and jobs[1].id in jobs[1].error and "of a library" in caplog.text


def test_who_is_not_wanted_any_more_leaves_the_others_in_their_batch(run: Run):
    localizer = BrokenLocalizer(3)
    begun, let = threading.Event(), threading.Event()

    def forward(windows: Sequence[VideoWindow]) -> list[dict[str, Any]]:
        begun.set()
        assert let.wait(MINUTE)
        return BrokenLocalizer.forward(localizer, windows)

    localizer.forward = forward  # type: ignore[method-assign]

    def cancel(queue: JobQueue, jobs: list[Job]) -> None:
        assert begun.wait(MINUTE)
        assert [job.status.value for job in jobs] == ["running", "running", "waiting"]
        queue.cancel(jobs[1])
        time.sleep(0.1)
        let.set()

    jobs, queue = run(Batches(localizer), ["a:1", "b:5", "c:1"], meanwhile=cancel)
    assert localizer.batches == [["a1", "b1", "b2"], ["c1"]]
    assert ends(jobs) == [("done", "a"), ("cancelled", None), ("done", "c")]
    # What they were worked on together counts once.
    assert 0.1 < queue.run_seconds < sum(job.seconds for job in jobs)


@pytest.mark.training
def test_the_end_of_the_process_is_held_against_who_was_alone(run: Run, monkeypatch: pytest.MonkeyPatch):
    process = WorkerProcess(make_batches)
    try:
        jobs, _ = run(process, ["a:1", "refused:1", "crash:1", "b:1", "c:1"])
        assert ends(jobs) == [
            ("done", "a"),
            ("failed", "refused is no video"),
            ("failed", "The process that worked on crash:1 ended; the file is likely damaged."),
            ("done", "b"),
            ("done", "c"),
        ]
        # Once with a, then alone.
        assert process.restarts == 2
        # b and c came after that, and were together.
        assert [job.alone for job in jobs] == [True, False, True, False, False]
        monkeypatch.setattr(worker, "GRACE", 0.1)
        jobs, _ = run(process, ["a:1", "deaf:1", "b:1"], seconds=2)
        assert [status for status, _ in ends(jobs)] == ["done", "failed", "done"]
        assert "took longer than" in str(jobs[1].error) and process.restarts == 4
    finally:
        process.close()


def videos_in(folder: Path) -> list[Path]:
    """Of one window, four, none (it is no video), one, and two; the one before the last is of another shape."""
    shapes = {"a": (10, 48, 64), "b": (40, 48, 64), "d": (16, 64, 48), "e": (20, 48, 64)}
    for name, shape in shapes.items():
        write_video(folder / f"{name}.mp4", numbered_frames(*shape), 10)
    (folder / "c.mp4").write_bytes(b"\x00" * 5000)
    return [folder / f"{name}.mp4" for name in "abcde"]


@pytest.mark.parametrize("square", [True, False])
def test_each_video_is_answered_as_alone(square: bool, tmp_path: Path, run: Run):
    pipe = small_pipeline()
    torch.nn.init.ones_(pipe.model.head.boundary.predictor.bias)  # whatever is drawn, segments have a length
    if not square:
        pipe.video_processor.size, pipe.video_processor.do_center_crop = SizeDict(shortest_edge=32), False
    paths = videos_in(tmp_path)
    good = [path for path in paths if path.name != "c.mp4"]
    alone = [pipe(path, threshold=0.0) for path in good]
    passes: list[tuple[int, ...]] = []
    pipe.model.register_forward_pre_hook(
        lambda _, __, inputs: passes.append(tuple(inputs["pixel_values_videos"].shape[::3])), with_kwargs=True
    )
    jobs, _ = run(Batches(Localizer(pipe, LIMITS, batch_size=4)), [path.name for path in paths], paths)
    assert [job.status.value for job in jobs] == ["done", "done", "failed", "done", "done"]
    assert str(jobs[2].error).startswith("c.mp4: not a video")
    for job, expected in zip([job for job in jobs if job.result], alone, strict=True):
        assert_same_actions(json.loads(str(job.result)), expected)
    # Frames of one size go together: of d they are higher where they are not made square.
    assert passes == ([(4, 32), (4, 32)] if square else [(4, 32), (3, 32), (1, 42)])
    jobs, _ = run(Batches(Localizer(pipe, LIMITS, batch_size=4, exact=True)), [path.name for path in good], good)
    assert [job.result for job in jobs] == [to_json(pipe(path, threshold=0.0, exact=True)) for path in good]
