"""An ML backend of Label Studio: its requests, answered by the jobs of the service.

What Label Studio sends and expects was read in its sources (label_studio/ml/api_connector.py) and in those of its own
backends (label_studio_ml/api.py of label-studio-ml-backend).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qs, unquote, urlsplit

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import JSONResponse

from ..data.annotation_formats.format import VideoToWrite
from ..data.annotation_formats.formats import WRITERS
from ..data.annotation_formats.xml_tree import parse_xml
from ..data.annotation_writing import with_length
from ..data.detection_files import by_time
from ..value_checks import POSITIVE, check_value
from .json_body import small_json

# Of its tag Video, where the project does not say another.
FRAME_RATE = 24.0
MODEL_VERSION = "re2tal"
NO_TRAINING = (
    "This service does not train: export the project, `re2tal annotations convert` it, `re2tal train` on it, and serve "
    "the run."
)

Find = Callable[[str, str], Awaitable[list[dict[str, Any]]]]
"""Maps the path of a video in an allowed folder and whose request it is to detections."""


@dataclass(frozen=True)
class Labelling:
    """Where a project shows its videos and takes their actions.

    Attributes:
        field: Of a task's data, with the address of the video.
        frame_rate: Frames a second that the project counts by; or the field of a task's data that says it.
        from_name: Of its timeline labels.
        to_name: Of its video.
    """

    field: str
    frame_rate: float | str
    from_name: str
    to_name: str

    def rate_of(self, data: dict[str, Any]) -> float:
        """Returns the frames a second by which a task is counted.

        Raises:
            ValueError: if its data do not say it, or not as a number above 0.
        """
        rate = data.get(self.frame_rate) if isinstance(self.frame_rate, str) else self.frame_rate
        return check_value(f"the frame rate ({self.frame_rate})", rate, Annotated[float, POSITIVE])


def read_labelling(config: Any) -> Labelling:
    """Reads the labelling configuration of a project.

    Raises:
        ValueError: if it is no XML, or has no timeline labels on a video.
    """
    if not isinstance(config, str):
        raise ValueError("There is no labelling configuration in the request.")
    tags = list(parse_xml(config.encode(errors="replace"), "labelling configuration").iter())
    videos = {tag.get("name"): tag for tag in tags if tag.tag == "Video"}
    for labels in (tag for tag in tags if tag.tag == "TimelineLabels"):
        video = videos.get(labels.get("toName"))
        if video is not None and (value := video.get("value", "")).startswith("$") and labels.get("name"):
            given = video.get("frameRate") or video.get("framerate") or str(FRAME_RATE)
            rate = given[1:] if given.startswith("$") else float(given)
            return Labelling(value[1:], rate, labels.get("name", ""), labels.get("toName", ""))
    raise ValueError(
        'The project needs <Video name="video" value="$video" frameRate="$fps"/> and '
        '<TimelineLabels name="actions" toName="video">.'
    )


def path_of(address: str) -> str:
    """Returns the path, from an allowed folder on, of a video as a task names it.

    That is what Label Studio serves: of its local storage (`/data/local-files/?d=PATH`) and of its own uploads
    (`/data/upload/...`), be it with the host before it; or a path as it is.

    Raises:
        ValueError: if the address is elsewhere.
    """
    parts = urlsplit(address)
    _, served, below = parts.path.partition("/data/")
    if served and below.rstrip("/") == "local-files":
        return parse_qs(parts.query).get("d", [""])[0]
    if served:
        return unquote(below)
    if parts.scheme:
        raise ValueError("its video lies elsewhere, and nothing is fetched; store it in an allowed folder")
    return address


def prediction(rows: list[dict[str, Any]], labelling: Labelling, frame_rate: float) -> dict[str, Any]:
    """Returns detections as a prediction of a task, as `re2tal predict --write label-studio` has them."""
    rows = [with_length(row) for row in by_time(rows)]
    actions = [(row["start"], row["end"], row["label"]) for row in rows]
    video = VideoToWrite("video", actions, frame_rate=frame_rate, scores=[row["score"] for row in rows])
    [task] = json.loads(WRITERS["label-studio"].text([video]))
    [found] = task["predictions"]
    names = {"from_name": labelling.from_name, "to_name": labelling.to_name}
    return {**found, "result": [{**result, **names} for result in found["result"]]}


def router(find: Find, owner: Callable[[Request], str]) -> APIRouter:
    """Returns what Label Studio asks of a backend, beside `/health`.

    Args:
        find: Finds the actions of a video.
        owner: Of a request, or it raises.
    """
    routes = APIRouter(tags=["Label Studio"])
    whose = Depends(owner)

    @routes.post("/setup")
    async def setup(request: Request, _: str = whose) -> dict[str, str]:
        """Checks that a project has timeline labels on a video."""
        sent = await _object(request)
        with _told():
            read_labelling(sent.get("schema"))
        return {"model_version": MODEL_VERSION}

    @routes.post("/predict")
    async def predict(request: Request, owner: str = whose) -> dict[str, Any]:
        """The actions of the videos of tasks, one after the other."""
        sent = await _object(request)
        with _told():
            labelling = read_labelling(sent.get("label_config"))
        results = []
        for number, task in enumerate(sent.get("tasks") or []):
            data = task.get("data") if isinstance(task, dict) else None
            place = f"task {task.get('id', number) if isinstance(task, dict) else number}"
            with _told(f"{place}: "):
                if not isinstance(data, dict) or not isinstance(data.get(labelling.field), str):
                    raise ValueError(f"its data have no {labelling.field!r}")
                rate, path = labelling.rate_of(data), path_of(data[labelling.field])
            results.append(prediction(await find(path, owner), labelling, rate))
        return {"results": results, "model_version": MODEL_VERSION}

    @routes.post("/webhook", status_code=200)
    async def webhook(request: Request, _: str = whose) -> Any:
        """Refuses to train; other events need nothing."""
        if (await _object(request)).get("action") == "START_TRAINING":
            return JSONResponse({"detail": NO_TRAINING}, 501)
        return {"status": "nothing to do"}

    return routes


async def _object(request: Request) -> dict[str, Any]:
    sent = await small_json(request)
    if not isinstance(sent, dict):
        raise HTTPException(422, "Send an object, as Label Studio does.")
    return sent


@contextlib.contextmanager
def _told(place: str = "") -> Iterator[None]:
    """Makes what is wrong with a request its answer."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(422, f"{place}{error}") from None
