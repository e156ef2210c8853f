"""A visitor's video in, its actions out: one video at a time, window by window, until done or stopped."""

import contextlib
import contextvars
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ..data.detection_files import by_time
from ..data.file_names import safe_name
from ..data.video_limits import VideoError, VideoLimits, describe, minutes
from ..finite import NotFiniteError
from ..video_reader import VideoReadError
from .annotated_video import write_annotated_video
from .model_limits import ModelError
from .models import ModelShelf
from .videos import Progress, is_playable, write_copy

LOWEST_SCORE = 0.05
MOST_ACTIONS = 200
MOST_LANES = 24
GPU_SECONDS = 120


class Stopped(Exception):
    """The visitor does not want the result any more."""


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


@dataclass(frozen=True)
class _Run:
    session: str
    stop: threading.Event = field(default_factory=threading.Event)


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
        self._max_seconds = max_seconds
        self._folder_of_examples = examples
        self._runs: dict[str, _Run] = {}
        # Copies that were made to be seen, and what they are copies of.
        self._originals: dict[str, str] = {}
        # One at a time, and in one thread: each thread would keep memory of its own for what it has freed.
        self._worker = ThreadPoolExecutor(max_workers=1)

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
            VideoError: if there is no video, it is beyond the limits, cannot be read or takes too long.
            ModelError: if the model cannot be used.
            Stopped: after `stop`.
        """
        if not video:
            raise VideoError("There is no video yet: drop one, pick an example or record one.")
        check_confined(video, self._folder_of_examples)
        duration = self._in_worker(self._limits.check, video)
        run_id = uuid.uuid4().hex
        self._runs[run_id] = _Run(session)
        try:
            self._shelf.pipeline(model)
            with _naming(video):
                return self._in_worker(self._run, video, model, run_id), duration
        finally:
            del self._runs[run_id]

    def localize(self, video: str | None, model: str, session: str) -> Localization:
        """Finds the actions of a video and makes sure that browsers play it; arguments and errors as for `detect`."""
        source = self._originals.get(str(video), video)
        detections, duration = self.detect(source, model, session)
        playable = str(video) if source != video else self._playable(str(video))
        return Localization(str(source), playable, duration, detections)

    def playable(self, video: str) -> str:
        """The path of a video, or of a copy that browsers play; actions are looked for in the video all the same.

        Raises:
            VideoError: if it is beyond the limits, cannot be read or takes too long.
        """
        check_confined(video, self._folder_of_examples)
        self._in_worker(self._limits.check, video)
        copy = self._playable(video)
        self._originals = {name: source for name, source in self._originals.items() if Path(name).is_file()}
        if copy != video:
            self._originals[copy] = video
        return copy

    def _playable(self, video: str) -> str:
        if is_playable(video):
            return video
        copy = str(new_folder() / f"{safe_name(Path(video).stem)}.mp4")
        show = self._in_time(_show_progress("Making a copy for the browser", "frames"))
        with _naming(video):
            self._in_worker(write_copy, video, copy, progress=show)
        return copy

    def annotate(self, found: Localization, detections: list[dict[str, Any]]) -> Path:
        """Writes the video of a result with some of its detections burnt in.

        Raises:
            VideoError: if the video has been deleted meanwhile, or one of its frames does not decode.
        """
        check_confined(found.source, self._folder_of_examples)
        self._in_worker(self._limits.check, found.source)
        target = new_folder() / f"{safe_name(Path(found.source).stem)}_actions.mp4"
        show = self._in_time(_show_progress("Drawing", "frames"))
        with _naming(found.source):
            self._in_worker(write_annotated_video, found.source, target, detections, progress=show)
        return target

    def stop(self, session: str) -> None:
        """Ends the visitor's runs, each after the window it is at; on ZeroGPU they go on unseen."""
        for run in list(self._runs.values()):
            if run.session == session:
                run.stop.set()

    def _in_worker(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        # Gradio tells by the context whose progress it is.
        context = contextvars.copy_context()
        return self._worker.submit(context.run, function, *arguments, **options).result()

    def _in_time(self, show: Progress) -> Progress:
        """Shows progress until the time is up: no visitor keeps the others waiting for longer."""
        end = time.monotonic() + self._max_seconds

        def report(done: int, count: int) -> None:
            if time.monotonic() > end:
                raise VideoError(
                    f"This took longer than {minutes(self._max_seconds)}, the time that a visitor has here; send a "
                    "shorter video, or run the page yourself with a larger --max-run-seconds."
                )
            show(done, count)

        return report

    def _run_windows(self, video: str, model: str, run_id: str) -> list[dict[str, Any]]:
        run = self._runs.get(run_id)
        show = self._in_time(_show_progress("Looking through the video", "windows"))

        def report(done: int, count: int) -> None:
            if run is not None and run.stop.is_set():
                raise Stopped
            show(done, count)

        pipe = self._shelf.pipeline(model)
        rows = pipe(video, top_k=MOST_ACTIONS, progress=report)
        # Where nothing is shown, the page says what the best score was.
        return [row for row in rows if row["score"] >= LOWEST_SCORE] or rows[:1]


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


def _show_progress(text: str, unit: str) -> Progress:
    progress = gr.Progress()

    def show(done: int, count: int) -> None:
        progress((done, count), desc=text, unit=unit)

    return show


def _on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Asks ZeroGPU for a device while the function runs; elsewhere there is no package `spaces`."""
    try:
        import spaces
    except ImportError:
        return function
    return spaces.GPU(duration=GPU_SECONDS)(function)
