"""The page: its blocks, what they do, and the API."""

import contextlib
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import gradio as gr

from ..data.detection_files import FORMATS, write_detections
from ..data.file_names import safe_name
from ..data.video_limits import VideoError, VideoLimits, minutes
from ..metrics.tal_map.uploads_only import UploadsOnly
from ..publishing.markdown import escape
from ..value_checks import SHARE, check_value
from .localization import LOWEST_SCORE, MAX_JOBS, Localization, Localizer, Stopped, new_folder, select
from .model_limits import ModelError
from .models import ModelShelf
from .settings import Settings
from .timeline import FILTER, make_timeline, timeline_value

THRESHOLD = 0.3
# For which an error is shown over the page; below the video it stays.
SECONDS = 10
MOST_NAMES = 12
# Videos wait in the queue of the localizer, which knows how many there may be.
IN_TURN: dict[str, Any] = {"concurrency_limit": None}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# Written to and shown by page.js.
ALERT = '<p role="alert"></p>'
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", **PRIVATE}


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """Shows what is wrong with a visitor's video or model as a message on the page."""
    try:
        yield
    except (VideoError, ModelError) as error:
        raise gr.Error(html.escape(str(error), quote=False), duration=SECONDS, print_exception=False) from error
    except Stopped as error:
        raise gr.Error("The run was ended.", title="Stopped", duration=3, print_exception=False) from error


class Page:
    """The page: its blocks and what they do.

    Args:
        settings: of the operator.

    Attributes:
        blocks: to be launched.

    Raises:
        ModelError: if the operator's model cannot be used.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._shelf = ModelShelf(
            settings.model,
            max_megabytes=settings.max_model_megabytes,
            max_seconds=settings.max_seconds,
            trust_remote_code=settings.trust_remote_code,
        )
        labels = self._shelf.pipeline().model.config.id2label.values()
        self._limits = VideoLimits(
            settings.max_seconds, settings.max_megabytes, settings.max_frames, settings.max_gigapixels
        )
        self._localizer = Localizer(self._shelf, self._limits, settings.max_run_seconds, settings.examples)
        frequency, age = max(1, round(min(settings.keep_seconds, 600))), round(settings.keep_seconds)
        title = "Temporal action localization"
        with UploadsOnly(title=title, analytics_enabled=False, delete_cache=(frequency, age)) as self.blocks:
            self._build_input(list(labels))
            self._build_result()
            self._connect()

    def launch(self, **options: Any) -> Any:
        """Serves the page; `options` go to `gr.Blocks.launch`."""
        settings = self._settings
        self.blocks.queue(default_concurrency_limit=1, max_size=MAX_JOBS)
        return self.blocks.serve(
            server_name=settings.host,
            server_port=settings.port,
            max_file_size=round(settings.max_megabytes * 2**20),
            css_paths=Path(__file__).with_name("page.css"),
            theme=_theme(),
            ssr_mode=False,
            **options,
        )

    def _build_input(self, labels: list[str]) -> None:
        settings = self._settings
        camera = gr.WebcamOptions(constraints={"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}})
        gr.Markdown(
            "# Temporal action localization\n"
            "Which actions happen in a video, and from when to when: drop a video, pick an example or record one. "
            + _describe_labels(labels)
        )
        with gr.Row():
            with gr.Column(scale=3):
                self._video = gr.Video(
                    sources=["upload", "webcam"], label="Video", elem_id="input", webcam_options=camera
                )
            with gr.Column(scale=2):
                self._model = gr.Textbox(
                    "",
                    label="Model",
                    placeholder="The model of this page",
                    info="Empty, or the Hub id of a model trained with re2tal_hf: user/name or user/name@revision",
                    max_lines=1,
                )
                self._find = gr.Button("Find actions", variant="primary", elem_id="find")
                self._stop = gr.Button("Stop", variant="stop", visible=False)
                self._build_examples()
                gr.Markdown(
                    f"Up to {self._limits}. Videos and results are deleted after {minutes(settings.keep_seconds)}.",
                    elem_classes="note",
                )
        # What the browser does not play, page.js sends by it; hidden by page.css.
        self._other = gr.UploadButton("Any video", elem_id="other", file_types=None)
        self._alert = gr.HTML(
            html_template=ALERT,
            js_on_load=Path(__file__).with_name("page.js").read_text(encoding="utf-8"),
            elem_id="alert",
        )
        self._status = gr.HTML(elem_id="status", visible=False)

    def _build_examples(self) -> None:
        if videos := sorted(Path(self._settings.examples).glob("*.mp4")) if self._settings.examples else []:
            gr.Examples([[str(path)] for path in videos], inputs=[self._video], label="Examples (generated)", **PRIVATE)

    def _build_result(self) -> None:
        self._state = gr.State(time_to_live=self._settings.keep_seconds)
        with gr.Column(visible=False, elem_id="result") as self._result:
            with make_timeline() as self._timeline, gr.Row():
                self._threshold = gr.Slider(
                    LOWEST_SCORE, 0.95, THRESHOLD, step=0.01, label="Score threshold", min_width=280, buttons=[]
                )
                self._labels = gr.CheckboxGroup(label="Classes", min_width=280, elem_id="classes")
            with gr.Row():
                self._downloads = {
                    kind: gr.DownloadButton(f"Download .{kind}", size="sm", min_width=120, elem_id=f"download-{kind}")
                    for kind in FORMATS
                }
                self._annotate = gr.Button("Make annotated video", size="sm", min_width=160)
            self._annotated = gr.Video(label="Annotated video", visible=False, interactive=False, height=360)

    def _connect(self) -> None:
        shown = [self._state, self._threshold, self._labels]
        buttons = [self._find, self._stop]
        filters = [self._threshold, self._labels]
        files = list(self._downloads.values())
        run = self._find.click(_busy, outputs=[*buttons, self._status], **AT_ONCE).then(
            self.find_actions,
            [self._video, self._model, self._threshold],
            [self._state, self._timeline, self._labels, self._result, self._annotated],
            show_progress_on=self._status,
            **IN_TURN,
            **PRIVATE,
        )
        run.success(_idle, outputs=[*buttons, self._status], **AT_ONCE).then(self.export, shown, files, **AT_ONCE)
        run.failure(_failed, outputs=[*buttons, self._status, self._result], **AT_ONCE)
        self._other.upload(self.take, self._other, self._video, show_progress_on=self._video, **IN_TURN, **PRIVATE)
        self._stop.click(self.stop, cancels=[run], **AT_ONCE).then(_idle, outputs=[*buttons, self._status], **AT_ONCE)
        changes = [self._threshold.change, self._labels.change]
        gr.on(changes, None, filters, js=FILTER, **PRIVATE)
        gr.on(changes, self.export, shown, files, trigger_mode="always_last", **AT_ONCE)
        self._annotate.click(self.annotate, shown, self._annotated, **IN_TURN, **PRIVATE)
        self.blocks.unload(self.stop)
        api = gr.Button(visible=False)
        inputs = [self._video, self._model, self._threshold]
        api.click(self.localize, inputs, gr.JSON(label="actions", visible=False), api_name="localize", **IN_TURN)

    def find_actions(self, video: str | None, model: str, threshold: float, request: gr.Request) -> tuple:
        """What the page shows of a video."""
        with messages():
            _check_inputs(model, threshold)
            found = self._localizer.localize(video, model, _session(request))
        return (
            found,
            timeline_value(found, threshold),
            _class_boxes(found),
            gr.Column(visible=True),
            gr.Video(value=None, visible=False),
        )

    def take(self, file: str, request: gr.Request) -> str:
        """A video in any format as one that browsers play."""
        with messages():
            return self._localizer.playable(file, _session(request))

    def localize(self, video: str, model: str, threshold: float, request: gr.Request) -> list[dict[str, Any]]:
        """Finds the actions of a video.

        Returns:
            `label`, `score`, `start` and `end` (seconds of the video) of each, best first.
        """
        with messages():
            _check_inputs(model, threshold)
            rows, _ = self._localizer.detect(video, model, _session(request))
        return [row for row in rows if row["score"] >= threshold]

    def stop(self, request: gr.Request) -> None:
        """Ends what runs for a visitor."""
        self._localizer.stop(_session(request))

    def export(self, found: Localization | None, threshold: float, labels: list[str]) -> list[str | None]:
        """Writes the files of the download buttons."""
        if found is None:
            return [None] * len(FORMATS)
        rows = select(found.detections, threshold, labels)
        folder = new_folder()
        paths = [folder / f"{safe_name(Path(found.source).stem)}.{kind}" for kind in FORMATS]
        for path in paths:
            write_detections(path, rows)
        return [str(path) for path in paths]

    def annotate(self, found: Localization | None, threshold: float, labels: list[str], request: gr.Request) -> Any:
        """Burns the actions shown into a copy of the video."""
        with messages():
            if found is None:
                raise VideoError("The result is no longer here; send the video again.")
            rows = select(found.detections, threshold, labels)
            target = self._localizer.annotate(found, rows, _session(request))
        return gr.Video(value=str(target), visible=True)


def _theme() -> gr.themes.Base:
    """Gradio's own with fonts of the visitor's machine, and subdued text dark enough to be read."""
    theme = gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return theme.set(
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def _describe_labels(labels: list[str]) -> str:
    """A sentence of Markdown; names of classes are anything that a model's maker wrote."""
    if not labels:
        return ""
    names = ", ".join(f"*{escape(label)}*" for label in labels[:MOST_NAMES])
    more = f" and {len(labels) - MOST_NAMES} more" if len(labels) > MOST_NAMES else ""
    return f"The model of this page knows {names}{more}."


def _class_boxes(found: Localization) -> gr.CheckboxGroup:
    labels, ticked = found.labels, found.first_labels
    text = "Classes" if ticked == labels else f"Classes: the best {len(ticked)} of {len(labels)} are ticked"
    return gr.CheckboxGroup(choices=labels, value=ticked, label=text)


def _busy() -> tuple:
    return gr.Button(visible=False), gr.Button(visible=True), gr.HTML(visible=True)


def _idle() -> tuple:
    return gr.Button(visible=True), gr.Button(visible=False), gr.HTML(visible=False)


def _failed() -> tuple:
    """The page after a run without a result: that of another video would look like one."""
    return *_idle(), gr.Column(visible=False)


def _check_inputs(model: Any, threshold: Any) -> None:
    """Refuses what only the API can send."""
    try:
        check_value("model", model, str)
        check_value("threshold", threshold, Annotated[float, SHARE])
    except ValueError as error:
        raise VideoError(str(error)) from error


def _session(request: gr.Request) -> str:
    return str(request.session_hash)
