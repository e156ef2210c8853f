"""The service as an ML backend of Label Studio: predictions that it takes, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient  # noqa: E402

from re2tal_hf.data.annotations import read_annotations  # noqa: E402
from re2tal_hf.data.video_limits import VideoError  # noqa: E402
from re2tal_hf.serving.keys import Keys  # noqa: E402
from re2tal_hf.serving.label_studio import Labelling, path_of, prediction, read_labelling  # noqa: E402
from re2tal_hf.serving.server import Server, ServerOptions  # noqa: E402
from re2tal_hf.serving.tasks import one_at_a_time  # noqa: E402

KEY = "the-key-of-label-studio"
CONFIG = (
    '<View><Video name="clip" value="$film" frameRate="$fps"/>'
    '<TimelineLabels name="what" toName="clip"><Label value="jump"/></TimelineLabels></View>'
)
FOUND = [
    {"label": "jump", "score": 0.9, "start": 2.0, "end": 3.0},
    {"label": "jump", "score": 0.5, "start": 0.5, "end": 1.0},
]


def localize(path: Path, name: str, settings: dict, progress: Any) -> list[dict[str, Any]]:
    if name == "broken.mp4":
        raise VideoError("broken.mp4: the file is damaged")
    return FOUND


@pytest.fixture
def client(tmp_path: Path):
    (tmp_path / "upload" / "3").mkdir(parents=True)
    for name in ("a.mp4", "broken.mp4", "upload/3/b c.mp4"):
        (tmp_path / name).write_bytes(b"video")
    server = Server(one_at_a_time(localize), Keys([KEY]), ServerOptions(folders=(tmp_path.resolve(),)))
    with TestClient(server.app, base_url="http://127.0.0.1") as client:
        client.auth = ("anyone", KEY)
        yield client


def predict(client: TestClient, *films: object, config: object = CONFIG, fps: object = 25) -> Any:
    tasks = [{"id": number, "data": {"film": film, "fps": fps}} for number, film in enumerate(films, start=7)]
    return client.post("/predict", json={"tasks": tasks, "label_config": config, "project": "1.2", "params": {}})


def test_tasks_get_predictions_by_the_names_and_the_frame_rate_of_the_project(client: TestClient, tmp_path: Path):
    films = ["/data/local-files/?d=a.mp4", "http://host:8080/data/upload/3/b%20c.mp4", "a.mp4"]
    answer = predict(client, *films).json()
    assert answer["model_version"] == "re2tal" and len(answer["results"]) == 3
    expected = {
        "id": "action0",
        "from_name": "what",
        "to_name": "clip",
        "type": "timelinelabels",
        "value": {"ranges": [{"start": 13, "end": 25}], "timelinelabels": ["jump"]},
        "score": 0.5,
    }
    for found in answer["results"]:
        assert found["model_version"] == "re2tal"
        assert found["result"][0] == expected and found["result"][1]["score"] == 0.9
    # And our reader of what Label Studio exports finds the seconds again, by whole frames.
    task = {"data": {"video": "a.mp4", "fps": 25}, "predictions": answer["results"][:1]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    [video] = read_annotations(tmp_path / "export.json").videos
    assert video.segments.tolist() == [[0.48, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("films", "settings", "status", "message"),
    [
        (["a.mp4", "none.mp4"], {}, 404, "no such video"),
        (["/data/local-files/?d=../../etc/passwd"], {}, 404, "no such video"),
        (["s3://bucket/a.mp4"], {}, 422, "task 7: its video lies elsewhere"),
        (["https://host/a.mp4"], {}, 422, "task 7: its video lies elsewhere"),
        ([3], {}, 422, "task 7: its data have no 'film'"),
        (["broken.mp4"], {}, 422, "broken.mp4: the file is damaged"),
        (["a.mp4"], {"fps": None}, 422, "task 7: the frame rate (fps)"),
        (["a.mp4"], {"fps": 0}, 422, "task 7: the frame rate (fps)"),
        (["a.mp4"], {"config": None}, 422, "no labelling configuration"),
        (["a.mp4"], {"config": "<View"}, 422, "not well-formed XML"),
        (["a.mp4"], {"config": "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"}, 422, "a DOCTYPE is not read"),
        (["a.mp4"], {"config": "<View/>"}, 422, "The project needs <Video"),
    ],
)
def test_what_is_wrong_is_told(client: TestClient, films: list, settings: dict, status: int, message: str):
    answer = predict(client, *films, **settings)
    assert answer.status_code == status and message in answer.json()["detail"]


def test_setup_training_and_keys(client: TestClient):
    sent = {"project": "1.2", "schema": CONFIG, "hostname": "http://host", "access_token": "x"}
    assert client.post("/setup", json=sent).json() == {"model_version": "re2tal"}
    assert client.post("/setup", json={**sent, "schema": "<View/>"}).status_code == 422
    refused = client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 1}})
    assert refused.status_code == 501 and "re2tal train" in refused.json()["detail"]
    assert client.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 200
    assert client.post("/predict", json={"tasks": [], "label_config": CONFIG}).json()["results"] == []
    assert client.get("/health").json()["status"] == "UP"
    client.auth = ("anyone", "wrong")
    for path in ("/setup", "/predict", "/webhook"):
        assert client.post(path, json=sent).status_code == 401


def test_where_videos_lie_and_how_frames_are_counted():
    assert path_of("/data/local-files/?d=day%201/a.mp4") == "day 1/a.mp4"
    assert path_of("/data/local-files/") == "" and path_of("day/a.mp4") == "day/a.mp4"
    assert read_labelling(CONFIG).rate_of({"fps": 12.5}) == 12.5
    assert read_labelling(CONFIG.replace(' frameRate="$fps"', "")).rate_of({}) == 24
    assert read_labelling(CONFIG.replace("$fps", "30")).rate_of({"fps": 3}) == 30


def test_points_in_time_get_a_second_about_them():
    row = {"label": "goal", "score": 0.9, "start": 8.0, "end": 8.0}
    found = prediction([row], Labelling("video", 24.0, "actions", "video"), 24.0)
    [[span]] = [result["value"]["ranges"] for result in found["result"]]
    assert (span["start"], span["end"]) == (181, 204)  # frames from 7.5 s to 8.5 s, counted from 1
