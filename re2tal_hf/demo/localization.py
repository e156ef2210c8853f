"""A visitor's video in, its actions out: one video at a time, window by window, until done or stopped."""

import atexit
import contextlib
import contextvars
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.utils import get_upload_folder

from ..data.detection_files import by_time
from ..data.file_names import safe_name
from ..data.video_limits import VideoError, VideoLimits, describe
from ..finite import NotFiniteError
from ..serving.jobs import JobQueue, QueueFull, Status
from ..serving.tasks import Stopped, one_at_a_time
from ..video_reader import VideoReadError
from .annotated_video import write_annotated_video
from .model_limits import ModelError
from .models import ModelShelf
from .videos import Progress, is_playable, write_copy

LOWEST_SCORE = 0.05
MOST_ACTIONS = 200
MOST_LANES = 24
GPU_SECONDS = 120
MAX_JOBS = 32
# Between two looks at how many come first.
TICK = 0.5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Localization:
    """What was found in a video.

    Attributes:
        source: path of the video as it was sent.
        playable: path of the same or of a copy that browsers play.
        duration: seconds.
        detections: mappings with `label`, `score`, `start` and `end` (seconds), best first.
    """

    source: str
    playable: str
    duration: float
    detections: list[dict[str, Any]]

    @property
    def labels(self) -> list[str]:
        """The classes found, the one with the best score first."""
        return list(dict.fromkeys(row["label"] for row in self.detections))

    @property
    def first_labels(self) -> list[str]:
        """Those of them that are shown at first: of very many the best."""
        return self.labels[:MOST_LANES]


class Localizer:
    """Runs the models of a shelf on the videos of visitors.

    Args:
        shelf: of models.
        limits: for videos.
        max_seconds: longest time for which a video is worked on.
        examples: folder of videos that are no visitor's; none where empty.
    """

    def __init__(self, shelf: ModelShelf, limits: VideoLimits, max_seconds: float, examples: str = ""):
        self._shelf = shelf
        self._limits = limits
        self._folder_of_examples = examples
        self._reports: dict[str, Progress] = {}
        # Copies that were made to be seen, and what they are copies of.
        self._originals: dict[str, str] = {}
        # One at a time, and in one thread: each thread would keep memory of its own for what it has freed.
        self._queue = JobQueue(
            one_at_a_time(_do),
            Path(get_upload_folder()),
            max_jobs=MAX_JOBS,
            max_run_seconds=max_seconds,
            keep_seconds=0.0,
        )
        atexit.register(self._queue.close)

        # ZeroGPU runs it in another process: what goes in and comes out are plain values.
        def run_windows(video: str, model: str, run_id: str) -> list[dict[str, Any]]:
            return self._run_windows(video, model, run_id)

        self._run = _on_gpu(run_windows)

    def detect(self, video: str | None, model: str, session: str) -> tuple[list[dict[str, Any]], float]:
        """Finds the actions of a video.

        Args:
            video: path of a file that Gradio has received.
            model: Hub id; empty for the operator's model.
            session: names the visitor, for `stop`.

        Returns:
            Detections, best first, and the duration of the video in seconds.

        Raises:
            VideoError: if there is no video, it is beyond the limits, cannot be read or takes too long, or too many
                wait.
            ModelError: if the model cannot be used.
            Stopped: after `stop`.
        """
        path = self._checked(video)
        return self._in_turn(path, session, lambda report: self._detect(path, model, report))

    def localize(self, video: str | None, model: str, session: str) -> Localization:
        """Finds the actions of a video and makes sure that browsers play it; arguments and errors as for `detect`."""
        seen = str(video)
        source = self._checked(self._originals.get(seen, video))

        def work(report: Progress) -> Localization:
            detections, duration = self._detect(source, model, report)
            playable = seen if source != seen else self._playable(source, report)
            return Localization(source, playable, duration, detections)

        return self._in_turn(source, session, work)

    def playable(self, video: str, session: str) -> str:
        """The path of a video, or of a copy that browsers play; actions are looked for in the video all the same.

        Raises:
            VideoError: if it is beyond the limits, cannot be read or takes too long, or too many wait.
            Stopped: after `stop`.
        """

        def work(report: Progress) -> str:
            self._limits.check(video)
            return self._playable(video, report)

        copy = self._in_turn(self._checked(video), session, work)
        self._originals = {name: source for name, source in self._originals.items() if Path(name).is_file()}
        if copy != video:
            self._originals[copy] = video
        return copy

    def annotate(self, found: Localization, detections: list[dict[str, Any]], session: str) -> Path:
        """Writes the video of a result with some of its detections burnt in.

        Raises:
            VideoError: if the video has been deleted meanwhile, one of its frames does not decode, or too many wait.
            Stopped: after `stop`.
        """

        def work(report: Progress) -> Path:
            self._limits.check(found.source)
            target = new_folder() / f"{safe_name(Path(found.source).stem)}_actions.mp4"
            with _naming(found.source):
                show = _telling(report, "Drawing", "frames")
                write_annotated_video(found.source, target, detections, progress=show)
            return target

        return self._in_turn(self._checked(found.source), session, work)

    def stop(self, session: str) -> None:
        """Ends what runs or waits for a visitor, each after the window it is at; on ZeroGPU they go on unseen."""
        self._queue.cancel_all_of(session)

    def _checked(self, video: str | None) -> str:
        if not video:
            raise VideoError("There is no video yet: drop one, pick an example or record one.")
        check_confined(video, self._folder_of_examples)
        return str(video)

    def _in_turn(self, video: str, session: str, work: Callable[[Progress], Result]) -> Result:
        """What comes of the work on a video, which takes what tells of its progress, when its turn has come."""
        # Gradio tells by the context whose progress it is.
        context, outcome = contextvars.copy_context(), Future[Result]()

        def run(report: Progress) -> None:
            try:
                outcome.set_result(context.run(work, report))
            except ModelError as error:
                outcome.set_exception(error)
                raise VideoError(str(error)) from error
            except BaseException as error:
                outcome.set_exception(error)
                raise

        try:
            job = self._queue.reserve(session, Path(video).name, {"run": run})
        except QueueFull:
            raise VideoError(f"{MAX_JOBS} videos are here, as many as may wait; send it again later.") from None
        self._queue.start(job, Path(video))
        progress = gr.Progress()
        while not wait([job.ended], TICK).done:
            if job.status is Status.WAITING:
                progress(0.0, desc=f"Waiting: {self._queue.position(job) + 1} before this one")
        if job.status is Status.CANCELLED:
            raise Stopped
        return outcome.result()

    def _detect(self, video: str, model: str, report: Progress) -> tuple[list[dict[str, Any]], float]:
        duration = self._limits.check(video)
        self._shelf.pipeline(model)
        run_id = uuid.uuid4().hex
        self._reports[run_id] = report
        try:
            with _naming(video):
                return self._run(video, model, run_id), duration
        finally:
            del self._reports[run_id]

    def _playable(self, video: str, report: Progress) -> str:
        if is_playable(video):
            return video
        copy = str(new_folder() / f"{safe_name(Path(video).stem)}.mp4")
        with _naming(video):
            write_copy(video, copy, progress=_telling(report, "Making a copy for the browser", "frames"))
        return copy

    def _run_windows(self, video: str, model: str, run_id: str) -> list[dict[str, Any]]:
        report = _telling(self._reports.get(run_id), "Looking through the video", "windows")
        rows = self._shelf.pipeline(model)(video, top_k=MOST_ACTIONS, progress=report)
        # Where nothing is shown, the page says what the best score was.
        return [row for row in rows if row["score"] >= LOWEST_SCORE] or rows[:1]


def _do(path: Path, name: str, settings: dict[str, Any], report: Progress) -> list[dict[str, Any]]:
    """A job of the queue; what comes of it is told to who waits for it, and not kept there."""
    settings["run"](report)
    return []


def select(detections: Sequence[dict[str, Any]], threshold: float, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Those of the given classes that score at least `threshold`, in order of time."""
    return by_time([row for row in detections if row["score"] >= threshold and row["label"] in labels])


@contextlib.contextmanager
def _naming(video: str) -> Iterator[None]:
    """Turns what a reader says of a video, and what shows a broken model, into a message for who sent it."""
    try:
        yield
    except VideoReadError as error:
        raise VideoError(describe(error, video)) from error
    except NotFiniteError as error:
        raise ModelError("What the model puts out is not finite: its training has diverged.") from error


def check_confined(path: str, examples: str = "") -> None:
    """Refuses files that neither came through Gradio nor are examples of the page.

    Args:
        path: of a file that a visitor names.
        examples: folder of the examples; none where empty.

    Raises:
        VideoError: for any other file, whether it exists or not.
    """
    real = Path(path).resolve()
    folders = [get_upload_folder(), *([examples] if examples else [])]
    if not any(real.is_relative_to(Path(folder).resolve()) for folder in folders):
        raise VideoError("This file was not sent to the page.")


def new_folder() -> Path:
    """A folder for results in Gradio's temporary one, where Gradio deletes the files that a page has returned."""
    uploads = Path(get_upload_folder())
    uploads.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=uploads))


def _telling(report: Progress | None, text: str, unit: str) -> Progress:
    """Tells the queue, where there is one, and the visitor."""
    progress = gr.Progress()

    def tell(done: int, count: int) -> None:
        if report is not None:
            report(done, count)
        progress((done, count), desc=text, unit=unit)

    return tell


def _on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Asks ZeroGPU for a device while the function runs; elsewhere there is no package `spaces`."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=GPU_SECONDS)(function)
