"""Jobs: a video each, which wait for their turn, are worked on, and end done, failed or cancelled."""

from __future__ import annotations

import collections
import logging
import secrets
import shutil
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from ..data.detection_files import to_json
from ..data.video_limits import VideoError, minutes
from .tasks import Stopped, Task, Work

logger = logging.getLogger(__name__)

# Of results that nobody has taken yet.
MAX_KEPT_BYTES = 64 * 2**20
MAX_KEPT_JOBS = 1000


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
        begun: When it was first asked for its progress: a model that must be loaded anew takes nothing of its time.
        alone: Whether no other may be under way with it: something went wrong with several, it may be its fault.
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
    alone: bool = False
    error: str | None = None
    result: str | None = None
    created: float = field(default_factory=time.time)
    begun: float = 0.0
    seconds: float = 0.0
    end_time: float = 0.0
    ended: Future[None] = field(default_factory=Future)


class JobQueue:
    """Jobs in the order in which they came, in a thread of its own.

    Args:
        work: Finds the actions of videos, of one at a time or of several together.
        folder: For uploads; exists.
        max_jobs: Jobs that may be there and not have ended.
        max_run_seconds: For which a video is worked on at the most.
        keep_seconds: For which a job is remembered after its end.

    Attributes:
        counts: Jobs that have ended, by status, and those that were refused.
        run_seconds: For which jobs were worked on; where they were several, these count once.
    """

    def __init__(self, work: Work, folder: Path, *, max_jobs: int, max_run_seconds: float, keep_seconds: float):
        self._work = work
        self._folder = folder
        self._max_jobs = max_jobs
        self._max_run_seconds = max_run_seconds
        self._keep_seconds = keep_seconds
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._waiting: collections.deque[Job] = collections.deque()
        self._under_way: list[Job] = []
        self._counted = 0.0
        self._changed = threading.Condition()
        self._closed = False
        self.counts = {status.value: 0 for status in ENDS} | {"refused": 0}
        self.run_seconds = 0.0
        self._thread = threading.Thread(target=self._work_on_jobs, name="jobs", daemon=True)
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

    def _work_on_jobs(self) -> None:
        while self._one_waits():
            try:
                self._work(self._take)
            except Exception as error:
                for job in list(self._under_way):
                    self._fail(job, error, True)

    def _one_waits(self) -> bool:
        """True as soon as a job waits, False when the queue is closed."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return not self._closed

    def _take(self) -> Task | None:
        """The next job, as a task; None if there is none, or it may not be under way with those that are."""
        with self._changed:
            if self._closed or not self._waiting:
                return None
            if self._under_way and (self._waiting[0].alone or any(job.alone for job in self._under_way)):
                return None
            job = self._waiting.popleft()
            job.status, job.begun = Status.RUNNING, 0.0
            if not self._under_way:
                self._counted = time.monotonic()
            self._under_way.append(job)
        assert job.path is not None
        calls = (partial(call, job) for call in (self._report, self._done, self._fail))
        return Task(job.id, job.path, job.name, job.settings, *calls)

    def _report(self, job: Job, done: int, windows: int) -> None:
        job.done, job.windows = done, windows
        job.begun = job.begun or time.monotonic()
        if job.status is not Status.RUNNING:
            raise Stopped
        if time.monotonic() > job.begun + self._max_run_seconds:
            raise VideoError(
                f"{job.name} took longer than {minutes(self._max_run_seconds)}, the time that a video has here; "
                "send a shorter one, or run this yourself with a larger --max-run-seconds."
            )

    def _done(self, job: Job, found: list[dict[str, Any]]) -> None:
        result = to_json(found)
        self._let_go(job)
        with self._changed:
            if job.status is Status.RUNNING:
                job.result = result
            self._end(job, Status.DONE)

    def _fail(self, job: Job, error: Exception, surely: bool) -> None:
        """Ends a job; one that may have suffered from another goes back, to be worked on once more, alone."""
        with self._changed:
            if job.status is Status.RUNNING and not surely and not job.alone:
                self._count(job)
                job.status, job.alone, job.done = Status.WAITING, True, 0
                self._waiting.insert(sum(other.alone for other in self._waiting), job)
                return
        self._let_go(job)
        told = str(error)
        if not isinstance(error, VideoError | Stopped):
            logger.error("job %s", job.id, exc_info=error)
            told = f"The server failed at this video; its log says more, at job {job.id}."
        with self._changed:
            self._end(job, Status.FAILED, told)

    def _let_go(self, job: Job) -> None:
        """Removes the file of a job that is not worked on any more."""
        shutil.rmtree(job.folder, ignore_errors=True)
        with self._changed:
            self._count(job)

    def _count(self, job: Job) -> None:
        """Counts the time of a job that is not worked on any more; to be called with the lock."""
        now = time.monotonic()
        job.seconds += now - (job.begun or now)
        self.run_seconds += now - self._counted
        self._counted = now
        self._under_way.remove(job)

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
