"""The metric's Space: its page on good and bad files, as a running app, and the metric loaded from the Hub."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hostile_names import HOSTILE_LABELS

from re2tal_hf.data.detection_files import spreadsheet_cell

gradio = pytest.importorskip("gradio")

FOLDER = Path(__file__).resolve().parents[1] / "re2tal_hf" / "metrics" / "tal_map"
EXAMPLE = (FOLDER / "example_annotations.json", FOLDER / "example_detections.json")
MODULES = ("app", "diagnosis", "diagnosis_figure", "json_files", "tal_map", "uploads_only")


@pytest.fixture(scope="module")
def page():
    """`app.py` as `python app.py` finds it: the folder itself on the path."""
    hidden = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        import app

        assert Path(app.__file__).parent == FOLDER
        yield app
    finally:
        sys.path.remove(str(FOLDER))
        for name in MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def measure(page, *arguments):
    return page.measure(page.read_inputs(*arguments))


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)

    return write


def annotations(*actions, subset="validation"):
    """actions: (start, end, label) of video v."""
    entries = [{"segment": [start, end], "label": label} for start, end, label in actions]
    return {"database": {"v": {"subset": subset, "annotations": entries}}}


def detections(*actions):
    """actions: (start, end, label, score) in video v."""
    return {"results": {"v": [{"segment": [s, e], "label": label, "score": p} for s, e, label, p in actions]}}


ANNOTATIONS = annotations((0, 10, "run"), (20, 30, "run"), (40, 50, "jump"))
DETECTIONS = detections((0, 10, "run", 0.9), (60, 70, "run", 0.8), (21, 30, "run", 0.7), (42, 50, "jump", 0.6))


# ---------------------------------------------------------------- what is measured


def test_tables_of_a_case_by_hand(page, file):
    # run at 0.5: precision 1, 1/2, 2/3, so AP (1 + 2/3) / 2; jump overlaps by 0.8
    measurement = measure(page, file("a.json", ANNOTATIONS), file("d.json", DETECTIONS), "all", "0.5, 0.85")
    assert page.map_table(measurement).values.tolist() == [["0.5", 0.9167], ["0.85", 0.4167], ["average", 0.6667]]
    table = page.class_table(measurement)
    assert list(table.columns) == ["class", "segments", "0.5", "0.85", "average"]
    assert table.values.tolist() == [["jump", 1, 1.0, 0.0, 0.5], ["run", 2, 0.8333, 0.8333, 0.8333]]
    assert page.csv_table(measurement).splitlines()[-1] == "mAP,3,0.9167,0.4167,0.6667"
    curves = page.plotted_curves(measurement)
    assert list(curves) == [page.MEAN, "jump", "run"]
    at = page.PLOTTED_RECALLS.tolist().index
    run = curves["run"]["0.5"]
    assert [run[at(0)], run[at(0.5)], run[at(0.51)], run[at(1)]] == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert curves["jump"]["0.85"] == [0.0] * 101
    assert curves[page.MEAN]["0.85"][at(1)] == pytest.approx(1 / 3)


def test_curves_have_the_area_that_is_reported(page):
    measurement = measure(page, *map(str, EXAMPLE), "validation", "0.3:0.1:0.7")
    results = measurement.results
    predictions, references = page.read_detections(EXAMPLE[1]), page.read_annotations(EXAMPLE[0])
    for rows in (predictions, references):
        for row in rows:
            row["labels"] = [measurement.class_names.index(label) for label in row["labels"]]
    references = [row for row in references if row["subset"] == "validation"]
    for threshold, by_class in results["precision_recall"].items():
        alone = page.TalMap(keep_in_memory=True).compute(
            predictions=predictions,
            references=references,
            tiou_thresholds=[t for t in page.parse_thresholds("0.3:0.1:0.7") if f"{t:g}" == threshold],
        )
        for class_id, curve in by_class.items():
            assert np.all(np.diff(curve["recall"]) > 0)
            assert np.all(np.diff(curve["precision"]) <= 0)
            area = np.sum(np.diff(curve["recall"], prepend=0.0) * curve["precision"])
            assert 0 < curve["ap"] == pytest.approx(area, abs=1e-12)
            assert curve["ap"] == pytest.approx(alone["per_class"][class_id], abs=1e-12)
        assert results[f"map@{threshold}"] == pytest.approx(np.mean([c["ap"] for c in by_class.values()]), abs=1e-12)
        drawn = page.plotted_curves(measurement)[page.MEAN][threshold]
        assert np.mean(drawn[1:]) == pytest.approx(results[f"map@{threshold}"], abs=0.02)


def test_both_forms_of_both_files_agree(page, file):
    plain_annotations = [{"video_id": "v", "segments": [[0, 10], [20, 30], [40, 50]], "labels": ["run", "run", "jump"]}]
    rows = DETECTIONS["results"]["v"]
    plain_detections = [
        {"video_id": "v", **{f"{name}s": [row[name] for row in rows] for name in ("segment", "label", "score")}}
    ]
    expected = measure(page, file("a.json", ANNOTATIONS), file("d.json", DETECTIONS), "all", "0.5").results
    for truth in (ANNOTATIONS, plain_annotations):
        for found in (DETECTIONS, plain_detections):
            assert measure(page, file("a.json", truth), file("d.json", found), "all", "0.5").results == expected


def test_integer_labels_without_ground_truth_are_left_out(page, file):
    truth = [{"video_id": "v", "segments": [[0, 10]], "labels": [7]}]
    found = [{"video_id": "v", "segments": [[0, 10], [0, 10]], "labels": [7, 8], "scores": [0.5, 0.9]}]
    measurement = measure(page, file("a.json", truth), file("d.json", found), "all", "0.5")
    assert page.class_table(measurement).values.tolist() == [["7", 1, 1.0, 1.0]]


def test_subsets(page):
    truth, found = page.read_annotations(EXAMPLE[0]), page.read_detections(EXAMPLE[1])
    assert page.subset_choices(truth, []) == (["all", "training", "validation"], "all")
    assert page.subset_choices(truth, found) == (["all", "training", "validation"], "validation")
    assert measure(page, *EXAMPLE, "validation", "0.5").summary.startswith("24 segments of 3 classes in 4 videos; 39 ")
    assert "**39 of them in videos that are not of this subset**" in measure(page, *EXAMPLE, "training", "0.5").summary


def test_thresholds(page):
    assert page.parse_thresholds("0.5:0.05:0.95") == np.linspace(0.5, 0.95, 10).tolist()
    assert page.parse_thresholds(" 0.3:0.1:0.7 ") == np.linspace(0.3, 0.7, 5).tolist()
    assert page.parse_thresholds("0.5, 0.75,1") == [0.5, 0.75, 1.0]
    for text in (
        "",
        "half",
        "0.5:0.7",
        "0.3:0:0.7",
        "0.3:0.15:0.7",
        "0.1:1e-9:0.9",
        "0.5,0.5",
        "0,0.5",
        "1.1",
        "nan:1:2",
    ):
        with pytest.raises(page.InputError, match="tIoU thresholds .*write"):
            page.parse_thresholds(text)


def test_what_is_wrong_with_the_detections(page, file):
    # Between the two runs: background; the jump's detection is called a run.
    truth = annotations((0, 10, "run"), (20, 30, "run"), (40, 50, "jump"))
    found = detections((0, 10, "run", 0.9), (60, 70, "run", 0.8), (21, 30, "run", 0.7), (42, 50, "run", 0.6))
    paths = file("a.json", truth), file("d.json", found)
    figures = page.diagnosed(page.read_inputs(*paths, "all", "0.5"))
    assert figures["map"] == measure(page, *paths, "all", "0.5").results["map"] == pytest.approx((5 / 6 + 0) / 2)
    # Without the background the runs' AP is 1; without the jump that is missed only the runs count.
    assert figures["cost"]["background"] == pytest.approx(1 / 12) and figures["cost"]["wrong label"] == 0
    assert figures["cost"]["missed"] == pytest.approx(5 / 12)
    assert figures["confusion_matrix"] == {"jump": {"run": 1}, "run": {"run": 2}}
    assert "coverage" not in figures["sensitivity"] and figures["per_video"]["v"]["actions"] == 3
    table = page.kind_table(figures).set_index("kind")
    assert table.loc["background"].tolist() == [0.0833, 0.3333]
    assert table.loc["missed (share of the actions)"].tolist() == [0.4167, 0.3333]
    truth["database"]["v"]["duration"] = "100"
    paths = file("a.json", truth), paths[1]
    assert page.diagnosed(page.read_inputs(*paths, "all", "0.5"))["sensitivity"]["coverage"][0]["high"] == 0.1
    picture, _, figures_path = page.show_diagnosis(*paths, "all", "0.5")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert json.loads(Path(figures_path).read_text(encoding="utf-8"))["detections"] == 4
    truth["database"]["v"]["duration"] = "long"
    with pytest.raises(page.InputError, match="video 'v': \"duration\" must hold finite numbers, got 'long'"):
        page.read_annotations(file("a.json", truth))


# ---------------------------------------------------------------- files that cannot be used

BAD_DETECTIONS = [
    (b"", "the file is empty"),
    (b"\x89PNG\r\n", "not a JSON file"),
    (b'{"results": ', "not a JSON file"),
    (b"[" * 100_000, "not a JSON file"),
    (b'{"results": {"v": [{"segment": [0, 1], "label": "run", "score": NaN}]}}', "NaN is no JSON number"),
    (b'{"results": {"v": [], "v": []}}', "the key 'v' stands twice"),
    ({"v": []}, r'it must be \{"results": .* it is an object with the fields \[\'v\'\]'),
    (3, "it is int"),
    (ANNOTATIONS, 'the field "database" of the other file; swap'),
    ({"results": {}}, "it holds no video"),
    ([], "it holds no video"),
    ({"results": {"v": []}}, "it holds no detection"),
    ({"results": {"v": {}}}, "video 'v': must be a list, got dict"),
    ({"results": {"v": [[0, 1]]}}, "video 'v', entry 0: must be an object"),
    (detections((0, 1, "fly", 0.5)), r"video 'v': label 'fly' is none of .*\('jump', 'run'\); rename it"),
    (detections((0, 1, 0, 0.5)), "video 'v': label 0 is none of"),
    (detections((0, 1, None, 0.5)), '"label" must be a name or an integer, got None'),
    (detections((0, 1, "run", 0.5), (0, 1, 0, 0.5)), '"label" is a name in some entries and an integer in others'),
    (detections((0, 1, "run", None)), 'entry 0: "score" must hold finite numbers, got None'),
    (detections((0, "x", "run", 0.5)), "entry 0: \"segment\" must hold finite numbers, got 'x'"),
    ({"results": {"v": [{"label": "run", "score": 1}]}}, r'"segment" must be \[start, end\] in seconds, got None'),
    ([{"video_id": "v", "segments": [[0, 1]], "labels": ["run"]}], "video 'v': field 'scores' is missing"),
    ([{"segments": [[0, 1]], "labels": ["run"], "scores": [1]}], 'entry 0: must be an object with "video_id"'),
    ([{"video_id": "v", "labels": ["run"], "segments": [[0, 1, 2]], "scores": [1]}], r"of shape \[N, 2\]"),
    ([{"video_id": "v", "labels": []}, {"video_id": "v", "labels": []}], "video 'v' stands 2 times"),
]


@pytest.mark.parametrize(("content", "message"), BAD_DETECTIONS)
def test_bad_detections_are_named(page, file, content, message):
    bad = file("found.json", content)
    with pytest.raises(gradio.Error) as raised:
        page.show_measurement(file("truth.json", ANNOTATIONS), bad, "all", "0.5")
    assert raised.value.message.startswith("found.json")
    assert re.search(message, raised.value.message), raised.value.message


BAD_ANNOTATIONS = [
    (b"no", "not a JSON file"),
    (DETECTIONS, 'the field "results" of the other file; swap'),
    ({"database": {"v": {"annotations": None}}}, "video 'v': \"annotations\" must be a list"),
    (annotations(), "subset 'all' has no annotated segment"),
]


@pytest.mark.parametrize(("content", "message"), BAD_ANNOTATIONS)
def test_bad_annotations_are_named(page, file, content, message):
    with pytest.raises(page.InputError, match=f"truth.json.*{message}"):
        measure(page, file("truth.json", content), file("found.json", DETECTIONS), "all", "0.5")


def test_bad_choices_are_named(page, file, monkeypatch):
    paths = file("truth.json", ANNOTATIONS), file("found.json", DETECTIONS)
    with pytest.raises(page.InputError, match="truth.json: no video of subset 'test'; it has 'all', 'validation'"):
        measure(page, *paths, "test", "0.5")
    with pytest.raises(gradio.Error, match="no detection file yet"):
        page.show_measurement(paths[0], None, "all", "0.5")
    with Path(paths[1]).open("ab") as grown:
        grown.truncate(50_000_001)
    with pytest.raises(page.InputError, match="found.json: 50 MB, and the page takes 50; keep"):
        measure(page, *paths, "all", "0.5")


def test_messages_are_no_markup(page, file):
    bad = file("found.json", detections((0, 1, "<b>fly</b>", 0.5)))
    with pytest.raises(gradio.Error, match="&lt;b&gt;fly&lt;/b&gt;"):
        page.show_measurement(file("truth.json", ANNOTATIONS), bad, "all", "0.5")


# ---------------------------------------------------------------- hostile names


@pytest.mark.parametrize("label", HOSTILE_LABELS[:-5], ids=lambda label: repr(label)[:20])
def test_the_table_of_hostile_labels_holds_no_formula(page, file, label):
    if label in ("", "\ud800"):
        with pytest.raises(page.InputError, match="a name or an integer|is no text"):
            page.read_annotations(file("a.json", annotations((0, 10, label))))
        return
    paths = file("a.json", annotations((0, 10, label))), file("d.json", detections((0, 10, label, 0.9)))
    measurement = measure(page, *paths, "all", "0.5")
    rows = list(csv.DictReader(io.StringIO(page.csv_table(measurement))))
    assert rows[0]["class"] == page.spreadsheet_cell(label) == spreadsheet_cell(label)
    assert label not in measurement.summary
    assert list(page.plotted_curves(measurement)) == [page.MEAN, label]


def test_a_class_that_is_called_as_the_mean_is_one_of_its_own(page, file):
    actions = [(0, 10, page.MEAN), (0, 10, "run")]
    paths = file("a.json", annotations(*actions)), file("d.json", detections((0, 10, "run", 0.9)))
    curves = page.plotted_curves(measure(page, *paths, "all", "0.5"))
    assert list(curves) == [page.MEAN, f"{page.MEAN} (class)", "run"]
    assert curves[page.MEAN]["0.5"][0] == 0.5 and curves[f"{page.MEAN} (class)"]["0.5"][0] == 0


def test_more_curves_than_a_page_can_hold_are_refused(page, file, monkeypatch):
    monkeypatch.setattr(page, "MAX_CURVES", 3)
    paths = file("a.json", ANNOTATIONS), file("d.json", DETECTIONS)
    with pytest.raises(page.InputError, match="2 classes at 2 tIoU thresholds make 4 curves, and the page takes 3"):
        measure(page, *paths, "all", "0.5, 0.6")
    measure(page, *paths, "all", "0.5")


@pytest.mark.parametrize("place", ["label", "video", "subset"])
def test_names_longer_than_any_name_are_refused_in_few_words(page, file, place):
    long = "x" * 10_000
    truth = annotations((0, 10, long if place == "label" else "run"), subset=long if place == "subset" else "all")
    if place == "video":
        truth["database"][long] = truth["database"].pop("v")
    with pytest.raises(page.InputError, match="has over 1000 letters; shorten it") as raised:
        page.read_annotations(file("a.json", truth))
    assert len(str(raised.value)) < 300


# ---------------------------------------------------------------- the app


@pytest.fixture
def served(tmp_path):
    """The address of the app, run from a copy of the folder and without the package."""
    folder = shutil.copytree(FOLDER, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "GRADIO_TEMP_DIR": str(tmp_path / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, folder / "app.py"], env=environment, stdout=log, stderr=log)
    try:
        # Gradio takes a free port, and says so once it answers there.
        while not (url := re.search(r"http://127\.0\.0\.1:\d+", (tmp_path / "log").read_text())):
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield url[0]
    finally:
        server.terminate()
        server.wait()


@pytest.mark.training
def test_app_serves_its_api(served, file, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(served, verbose=False, download_files=str(tmp_path / "downloads"))
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/measure", "/diagnose"]
    with pytest.raises(AppError, match="bad.json: the file is empty"):
        client.predict(handle_file(EXAMPLE[0]), handle_file(file("bad.json", b"")), "all", "0.5", api_name="/measure")
    address = {"path": "https://example.com/truth.json", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError, match="takes uploads only"):
        client.predict(address, handle_file(EXAMPLE[1]), "all", "0.5", api_name="/measure")
    summary, map_table, class_table, csv_path = client.predict(
        annotation_path=handle_file(EXAMPLE[0]),
        detection_path=handle_file(EXAMPLE[1]),
        subset="validation",
        thresholds="0.5,0.75",
        api_name="/measure",
    )
    assert summary == (
        "24 segments of 3 classes in 4 videos; 39 detections. "
        "**Equal scores leave the mAP to the order of the detections: 0.5699 to 0.5836.**"
    )
    assert dict(map_table["data"]) == {"0.5": 0.7388, "0.75": 0.4284, "average": 0.5836}
    assert [row[:3] for row in class_table["data"]] == [["chop", 9, 0.781], ["pour", 8, 0.6771], ["stir", 7, 0.7584]]
    assert Path(csv_path).read_text(encoding="utf-8-sig").splitlines()[0] == "class,segments,0.5,0.75,average"
    picture, kinds, figures_path = client.predict(
        *map(handle_file, EXAMPLE), "validation", "0.5,0.75", api_name="/diagnose"
    )
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert [row[0] for row in kinds["data"]][-2:] == ["background", "missed (share of the actions)"]
    assert json.loads(Path(figures_path).read_text(encoding="utf-8"))["map"] == pytest.approx(0.5836, abs=1e-4)


# ---------------------------------------------------------------- the metric on the Hub

UPLOAD_AND_LOAD = """
import sys

import evaluate
from huggingface_hub import HfApi

folder = sys.argv[1]
api = HfApi()
repo = api.create_repo("user/tal_map", repo_type="space", space_sdk="gradio").repo_id
api.upload_folder(repo_id=repo, folder_path=folder, repo_type="space", ignore_patterns=["__pycache__/*"])
print(*sorted(api.list_repo_files(repo, repo_type="space")))
for source in (repo, folder):
    results = evaluate.load(source).compute(
        predictions=[{"video_id": "v", "segments": [[0, 8]], "labels": [2], "scores": [0.5]}],
        references=[{"video_id": "v", "segments": [[0, 10]], "labels": [2]}],
        tiou_thresholds=[0.5, 0.9],
    )
    assert results == {"map": 0.5, "map@0.5": 1.0, "map@0.9": 0.0, "per_class": {2: 0.5}}, results
"""


@pytest.mark.training
def test_metric_loads_from_its_space(local_hub, tmp_path):
    done = local_hub.run("-c", UPLOAD_AND_LOAD, FOLDER, home=tmp_path / "home", cwd=tmp_path)
    uploaded = set(done.stdout.split())
    assert {"README.md", "app.py", "requirements.txt", "tal_map.py", *(path.name for path in EXAMPLE)} <= uploaded
    assert any("/user/tal_map/resolve/" in request and "tal_map.py" in request for request in local_hub.requests())
