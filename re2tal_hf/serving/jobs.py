"""Jobs: a video each, which wait for their turn, run one at a time, and end done, failed or cancelled."""

from __future__ import annotations

import collections
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from ..data.detection_files import to_json
from ..data.video_limits import VideoError, minutes

logger = logging.getLogger(__name__)

# Of results that nobody has taken yet.
MAX_KEPT_BYTES = 64 * 2**20
MAX_KEPT_JOBS = 1000

Progress = Callable[[int, int], None]
"""Takes the number of windows done and of all; what it raises ends the work on the video."""

Localize = Callable[[Path, str, dict[str, Any], Progress], list[dict[str, Any]]]
"""Maps a file, what messages call it, settings of the pipeline and what takes the progress to detections."""


class Status(str, Enum):
    """How far a job is."""

    RECEIVING = "receiving"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS = (Status.DONE, Status.FAILED, Status.CANCELLED)


class QueueFull(Exception):
    """As many jobs as may are there already."""


class Stopped(Exception):
    """The result of a job is not wanted any more."""


@dataclass(eq=False)
class Job:
    """A video whose actions are to be found.

    Attributes:
        owner: Whose it is.
        name: What the client calls the video.
        settings: Of the pipeline.
        folder: For an upload alone; removed when the job ends.
        path: Of the video, once it is there.
        done: Windows that the model has seen.
        windows: All windows of the video; 0 while they are not counted.
        error: What is told of a job that failed.
        result: Detections of one that is done, the JSON that `re2tal predict` writes.
        ended: Done when the job is.
    """

    owner: str
    name: str
    settings: dict[str, Any]
    folder: Path
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: Status = Status.RECEIVING
    path: Path | None = None
    done: int = 0
    windows: int = 0
    error: str | None = None
    result: str | None = None
    created: float = field(default_factory=time.time)
    seconds: float = 0.0
    end_time: float = 0.0
    ended: Future[None] = field(default_factory=Future)


class JobQueue:
    """Jobs in the order in which they came, one at a time, in a thread of its own.

    Args:
        localize: Finds the actions of a video.
        folder: For uploads; exists.
        max_jobs: Jobs that may be there and not have ended.
        max_run_seconds: For which a video is worked on at the most.
        keep_seconds: For which a job is remembered after its end.

    Attributes:
        counts: Jobs that have ended, by status, and those that were refused.
        run_seconds: Of all jobs together.
    """

    def __init__(self, localize: Localize, folder: Path, *, max_jobs: int, max_run_seconds: float, keep_seconds: float):
        self._localize = localize
        self._folder = folder
        self._max_jobs = max_jobs
        self._max_run_seconds = max_run_seconds
        self._keep_seconds = keep_seconds
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self.counts = {status.value: 0 for status in ENDS} | {"refused": 0}
        self.run_seconds = 0.0
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def reserve(self, owner: str, name: str, settings: dict[str, Any]) -> Job:
        """Returns a job that has its place in the queue before its video is there.

        Raises:
            QueueFull: if there is none left.
        """
        with self._changed:
            self._forget()
            if sum(job.status not in ENDS for job in self._jobs.values()) >= self._max_jobs or self._closed:
                self.counts["refused"] += 1
                raise QueueFull
            job = Job(owner, name, settings, Path())
            job.folder = self._folder / job.id
            self._jobs[job.id] = job
            return job

    def start(self, job: Job, path: Path) -> None:
        """Lets a job wait for its turn, now that its video is there."""
        with self._changed:
            if job.status is Status.RECEIVING:
                job.path, job.status = path, Status.WAITING
                self._waiting.append(job)
                self._changed.notify()

    def fail(self, job: Job, error: str) -> None:
        """Ends a job whose video did not come."""
        with self._changed:
            self._end(job, Status.FAILED, error)

    def get(self, job_id: str, owner: str) -> Job | None:
        """The job, if there is one and it is the owner's."""
        with self._changed:
            self._forget()
            job = self._jobs.get(job_id)
        return job if job is not None and job.owner == owner else None

    def cancel(self, job: Job) -> None:
        """Ends a job; one that runs does so after the window that it is at."""
        with self._changed:
            self._end(job, Status.CANCELLED)

    def cancel_all_of(self, owner: str) -> None:
        """Ends the jobs of an owner."""
        with self._changed:
            for job in [job for job in self._jobs.values() if job.owner == owner]:
                self._end(job, Status.CANCELLED)

    def position(self, job: Job) -> int:
        """Jobs that come before one that waits."""
        with self._changed:
            return self._waiting.index(job) if job in self._waiting else 0

    def unfinished(self) -> dict[str, int]:
        """Numbers of jobs that have not ended, by status."""
        with self._changed:
            statuses = [job.status for job in self._jobs.values()]
        return {status.value: statuses.count(status) for status in Status if status not in ENDS}

    def close(self) -> None:
        """Cancels all that has not ended, and waits until the one that runs has let go of its file."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                self._end(job, Status.CANCELLED)
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._waiting.popleft()
                job.status = Status.RUNNING
            started = time.monotonic()
            try:
                result, error = self._run(job, started + self._max_run_seconds)
            finally:
                job.seconds = time.monotonic() - started
                self.run_seconds += job.seconds
                shutil.rmtree(job.folder, ignore_errors=True)
            with self._changed:
                job.result = result
                self._end(job, Status.DONE if error is None else Status.FAILED, error)

    def _run(self, job: Job, end: float) -> tuple[str | None, str | None]:
        """The result of a job, or what is told of its failure; neither if it was cancelled."""

        def report(done: int, windows: int) -> None:
            job.done, job.windows = done, windows
            if job.status is not Status.RUNNING:
                raise Stopped
            if time.monotonic() > end:
                raise VideoError(
                    f"{job.name} took longer than {minutes(self._max_run_seconds)}, the time that a video has here; "
                    "send a shorter one, or run this yourself with a larger --max-run-seconds."
                )

        assert job.path is not None
        try:
            return to_json(self._localize(job.path, job.name, job.settings, report)), None
        except Stopped:
            return None, None
        except VideoError as error:
            return None, str(error)
        except Exception:
            logger.exception("job %s", job.id)
            return None, f"The server failed at this video; its log says more, at job {job.id}."

    def _end(self, job: Job, status: Status, error: str | None = None) -> None:
        """Ends a job that has not ended; to be called with the lock."""
        if job.status in ENDS:
            return
        was_running = job.status is Status.RUNNING
        job.status, job.error, job.end_time = status, error, time.monotonic()
        self.counts[status.value] += 1
        if job in self._waiting:
            self._waiting.remove(job)
        if not was_running:  # else the thread lets go of the file first
            shutil.rmtree(job.folder, ignore_errors=True)
        self._jobs.move_to_end(job.id)
        job.ended.set_result(None)

    def _forget(self) -> None:
        """Lets go of jobs that ended long ago, or whose results are too many; to be called with the lock."""
        ended = [job for job in self._jobs.values() if job.status in ENDS]
        kept, size, oldest = 0, 0, time.monotonic() - self._keep_seconds
        for job in reversed(ended):
            kept, size = kept + 1, size + len(job.result or "")
            if kept > MAX_KEPT_JOBS or size > MAX_KEPT_BYTES or job.end_time < oldest:
                del self._jobs[job.id]
