import copy
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from architecture_cases import CASES
from datasets import Dataset
from PIL import Image
from run_factory import small_pipeline
from tolerances import assert_same_actions
from transformers import pipeline
from video_factory import write_video

from re2tal_hf import (
    Re2TALConfig,
    Re2TALForTemporalActionLocalization,
    Re2TALVideoProcessor,
    TemporalActionLocalizationPipeline,
)
from re2tal_hf.finite import NotFiniteError
from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.video_reader import VideoReader, VideoReadError

RATE = 10.0
EXACT_CASES = [
    case
    for case in CASES
    if case.name in ("video_swin", "slowfast", "vjepa2", "timesformer", "r3d", "image_efficientnet")
]


@pytest.fixture(scope="module")
def pipe() -> TemporalActionLocalizationPipeline:
    torch.manual_seed(0)
    config = Re2TALConfig(
        backbone_config={"model_type": "video_swin", "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
        head_config={"hidden_size": 16, "num_levels": 3},
        id2label={0: "jump", 1: "run"},
        label2id={"jump": 0, "run": 1},
    )
    processor = Re2TALVideoProcessor(size={"height": 32, "width": 32}, num_frames=16, frame_rate=RATE)
    model = Re2TALForTemporalActionLocalization(config)
    return TemporalActionLocalizationPipeline(model=model, video_processor=processor, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    frames = torch.randint(0, 255, (53, 32, 48, 3), dtype=torch.uint8).numpy()
    return str(write_video(tmp_path_factory.mktemp("videos") / "noise.mp4", frames, RATE))


@pytest.mark.parametrize("head", ["actionformer", "spotting", "tridet", "vsgn"])
@pytest.mark.parametrize("part", ["model", "head"])
def test_a_model_with_nan_is_an_error(head, part, video):
    broken = small_pipeline(head_config={"model_type": head, "hidden_size": 32, "num_levels": 3})
    assert broken(video, threshold=0.0)
    for parameter in getattr(broken.model, part).parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(NotFiniteError, match="noise.mp4.*not finite"):
        broken(video)


def test_points_in_time_start_where_they_end(video, tmp_path):
    pipe = small_pipeline(head_config={"model_type": "spotting", "hidden_size": 16, "num_levels": 3})
    with pytest.raises(ValueError, match="finds points in time: set point_window"):
        TemporalActionLocalizationPipeline(model=pipe.model, video_processor=Re2TALVideoProcessor())
    pipe.save_pretrained(tmp_path)
    rows = pipeline("temporal-action-localization", model=str(tmp_path))(video)
    assert len(rows) > 20 and rows == pipe(video)
    assert all(0 <= row["start"] == row["end"] <= 5.3 + 1e-6 for row in rows)
    assert max(row["end"] for row in rows) > 4.0
    # Of one class and place the suppression leaves one near its score.
    best = rows[0]
    near = [row for row in rows[1:] if row["label"] == best["label"] and abs(row["start"] - best["start"]) < 0.05]
    assert all(row["score"] < 0.3 * best["score"] for row in near)


def test_actions_are_in_seconds_and_best_first(pipe, video):
    rows = pipe(video)
    assert rows
    assert all(row["label"] in ("jump", "run") for row in rows)
    assert all(0 <= row["start"] < row["end"] <= 5.3 + 1e-6 for row in rows)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert max(row["end"] for row in rows) > 4.0  # windows cover the whole video


@pytest.fixture(scope="module")
def class_agnostic_pipe() -> TemporalActionLocalizationPipeline:
    return small_pipeline(id2label={0: "action"}, label2id={"action": 0})


def test_scores_of_a_video_classifier_name_the_actions(class_agnostic_pipe, video):
    found = class_agnostic_pipe(video)
    assert {row["label"] for row in found} == {"action"}
    by_name = class_agnostic_pipe(video, video_scores={"long jump": 0.5, "run": 0.25, "swim": 0.1})
    assert {row["label"] for row in by_name} == {"long jump", "run"}  # the two best, as the processor is set
    jumps = [row for row in by_name if row["label"] == "long jump"]
    assert [(row["start"], row["end"]) for row in jumps] == [(row["start"], row["end"]) for row in found]
    assert [row["score"] for row in jumps] == pytest.approx([row["score"] / 2 for row in found])
    by_id = class_agnostic_pipe(video, video_scores={3: 0.5, 8: 0.25})
    names = {"LABEL_3": "long jump", "LABEL_8": "run"}
    assert [{**row, "label": names[row["label"]]} for row in by_id] == by_name
    assert class_agnostic_pipe(video, video_scores=torch.tensor([0.0, 0.0, 0.0, 0.5])) == [
        row for row in by_id if row["label"] == "LABEL_3"
    ]
    assert class_agnostic_pipe(video, video_scores={"run": 0.0}) == []
    assert class_agnostic_pipe(video, video_scores=None) == found


def test_each_of_several_videos_has_its_own_scores(class_agnostic_pipe, video):
    first, second = class_agnostic_pipe([video, video], video_scores=[{"run": 0.5}, {"swim": 0.5}])
    assert {row["label"] for row in first} == {"run"} and {row["label"] for row in second} == {"swim"}
    with pytest.raises(ValueError, match="those of one video"):
        class_agnostic_pipe([video, video], video_scores={"run": 0.5})
    with pytest.raises(ValueError, match="of 1 videos, not of 2"):
        class_agnostic_pipe([video, video], video_scores=[{"run": 0.5}])


@pytest.mark.parametrize(
    ("scores", "message"),
    [({"run": float("nan")}, "'run' is nan"), ({-1: 0.5}, "-1 is neither"), ({}, "empty"), (0.5, "are 0.5; give")],
)
def test_wrong_scores_are_refused_before_the_video_is_read(class_agnostic_pipe, scores, message):
    with pytest.raises(ValueError, match=message):
        class_agnostic_pipe("there_is_no_such.mp4", video_scores=scores)


def test_the_processor_is_that_saved_with_the_model(class_agnostic_pipe, video, tmp_path):
    model, processor = class_agnostic_pipe.model, class_agnostic_pipe.video_processor
    model.save_pretrained(tmp_path)
    for make in (partial(pipeline, "temporal-action-localization"), TemporalActionLocalizationPipeline):
        with pytest.raises(ValueError, match="no video processor with the model: save the one"):
            make(model=model)
    with pytest.raises(ValueError, match=f"no video processor with the model: .*{tmp_path}"):
        pipeline("temporal-action-localization", model=str(tmp_path))
    processor.save_pretrained(tmp_path)
    expected = class_agnostic_pipe(video)
    assert pipeline("temporal-action-localization", model=str(tmp_path), device="cpu")(video) == expected
    loaded = Re2TALForTemporalActionLocalization.from_pretrained(tmp_path)
    assert TemporalActionLocalizationPipeline(model=loaded, device="cpu")(video) == expected
    settings = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({**settings, "frame_rate": -1}))
    with pytest.raises(ValueError, match="frame_rate is -1"):
        pipeline("temporal-action-localization", model=str(tmp_path))


def test_batches_of_windows_give_the_same(pipe, video):
    one, several = pipe(video), pipe(video, batch_size=3)
    assert_same_actions(several, one)
    sizes = []
    built = pipeline(
        "temporal-action-localization", model=pipe.model, video_processor=pipe.video_processor, batch_size=2
    )
    handle = built.model.register_forward_pre_hook(
        lambda _, args, given: sizes.append(len(given["pixel_values_videos"])), with_kwargs=True
    )
    assert_same_actions(built(video), one)
    assert max(sizes) == 2
    with Path(video).open("rb") as file:
        assert_same_actions(built([file], batch_size=1)[0], one)
    assert sizes[-1] == 1
    handle.remove()


EXACT_HEADS = ["actionformer", "spotting", "tridet", "vsgn"]


@pytest.mark.parametrize("number", range(len(EXACT_CASES)), ids=[case.name for case in EXACT_CASES])
def test_exact_detections_are_the_same_to_the_bit_whatever_runs_together(number, video):
    head = EXACT_HEADS[number % len(EXACT_HEADS)]
    pipe = small_pipeline(
        backbone_config=EXACT_CASES[number].config, head_config={"model_type": head, "hidden_size": 32, "num_levels": 3}
    )
    sizes = []
    pipe.model.register_forward_pre_hook(
        lambda _, args, given: sizes.append((len(given["pixel_values_videos"]), torch.get_num_threads())),
        with_kwargs=True,
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = pipe(video)
        torch.set_num_threads(2)
        with VideoReader(video) as reader:
            frames = reader.frames_at([k / RATE for k in range(53)])
        assert pipe(video, batch_size=4, exact=True) == expected
        assert pipe(frames, frame_rate=RATE, batch_size=3, exact=True) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(expected) > 10
    assert set(sizes) == {(1, 1)}


def test_where_nothing_reaches_the_threshold_the_best_score_is_said(pipe, video, caplog):
    [best, *_] = pipe(video)
    assert pipe(video, threshold=1.0) == []
    assert caplog.messages == [
        f"{video}: no action scores the threshold of 1 or more; the best score is {best['score']:.3g}, of "
        f"{best['label']} from {best['start']:.1f} s to {best['end']:.1f} s"
    ]
    assert pipe(video, threshold=best["score"], max_segments=1) == [best] and len(caplog.messages) == 1


def test_settings_of_a_call(pipe, video):
    rows = pipe(video)
    threshold = rows[3]["score"]
    assert pipe(video, threshold=threshold) == rows[:4]
    assert pipe(video, top_k=2) == rows[:2]
    assert pipe(video, top_k=None) == rows
    assert len(pipe(video, max_segments=2)) == 2
    assert pipe(video, window_overlap=0.0) != rows


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"treshold": 0.1}, TypeError, "treshold"),
        ({"max_detections": 2}, TypeError, "max_detections"),
        ({"window_overlap": 1.0}, ValueError, "window_overlap is 1.0"),
        ({"threshold": 30}, ValueError, "threshold is 30"),
        ({"top_k": 0}, ValueError, "top_k is 0"),
        ({"max_segments": 1.5}, ValueError, "max_segments is 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"progress": "bar"}, TypeError, "progress is 'bar'"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_read(pipe, settings, error, message):
    with pytest.raises(error, match=message):
        pipe("http://127.0.0.1:1/never-asked-for.mp4", **settings)


def test_forms_of_a_video_give_the_same(pipe, video):
    expected = pipe(video)
    with VideoReader(video) as reader:
        frames = reader.frames_at([k / RATE for k in range(53)])
    array = frames.permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(frame) for frame in array]
    assert pipe(array, frame_rate=RATE) == expected
    assert pipe(pictures, frame_rate=RATE) == expected
    assert pipe(list(frames), frame_rate=RATE) == expected
    assert pipe({"frames": frames, "frame_rate": RATE}) == expected
    assert pipe({"path": video, "bytes": None}) == expected
    assert pipe(frames, frame_rate=2 * RATE) != expected
    with pytest.raises(ValueError, match="frame_rate is None"):
        pipe(pictures)
    with pytest.raises(ValueError, match="float32; give uint8"):
        pipe(frames.float(), frame_rate=RATE)


def test_several_videos(pipe, video):
    expected = pipe(video)
    content = Path(video).read_bytes()
    assert pipe([video, content]) == [expected, expected]
    assert pipe((Path(video),)) == [expected]
    assert pipe([]) == []
    column = Dataset.from_dict({"video": [{"path": video, "bytes": None}, {"path": None, "bytes": content}]})["video"]
    assert pipe(column) == [expected, expected]
    streamed = pipe(path for path in (video, "missing.mp4"))
    assert next(streamed) == expected
    with pytest.raises(VideoReadError, match=r"missing\.mp4"):
        next(streamed)
    with pytest.raises(TypeError, match="videos is 3, which is no video"):
        pipe(3)


def test_urls(pipe, video):
    handler = partial(SimpleHTTPRequestHandler, directory=str(Path(video).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            assert pipe(f"http://127.0.0.1:{server.server_port}/noise.mp4") == pipe(video)
        finally:
            server.shutdown()


def test_progress(pipe, video, capsys):
    counts = []
    pipe(video, progress=lambda done, windows: counts.append((done, windows)), batch_size=2)
    assert counts == [(2, 6), (4, 6), (6, 6)]
    assert capsys.readouterr().err == ""
    pipe(video, progress=True)
    bar = capsys.readouterr().err
    assert "noise.mp4: 100%" in bar
    assert "6/6" in bar


def test_rows_are_plain_and_made_without_gradients(pipe, video):
    seen = []
    hook = pipe.model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits.is_inference()))
    rows = pipe(video)
    hook.remove()
    assert seen
    assert all(seen)
    assert json.loads(json.dumps(rows)) == rows
    assert all(list(row) == ["label", "score", "start", "end"] for row in rows)
    assert {type(row[name]) for row in rows for name in ("score", "start", "end")} == {float}


def test_a_file_that_is_no_video_is_named(pipe, tmp_path):
    (tmp_path / "text.mp4").write_text("text")
    with pytest.raises(VideoReadError, match=r"text\.mp4"):
        pipe(str(tmp_path / "text.mp4"))


@pytest.mark.training
def test_a_compiled_model_gives_the_same(pipe, video):
    compiled = TemporalActionLocalizationPipeline(
        model=copy.deepcopy(pipe.model), video_processor=pipe.video_processor, device="cpu"
    )
    torch.compiler.reset()  # beside another test's sizes those of this one would become symbols, at 15 times the time
    compiled.model.compile(backend="eager")
    assert_same_actions(compiled(video), pipe(video))


def test_half_precision(pipe, video):
    half = TemporalActionLocalizationPipeline(
        model=copy.deepcopy(pipe.model).to(torch.bfloat16), video_processor=pipe.video_processor, device="cpu"
    )
    best, expected = half(video, top_k=1)[0], pipe(video, top_k=1)[0]
    assert best["score"] == pytest.approx(expected["score"], rel=0.1)
    assert best["score"] != expected["score"]


def test_saved_pipelines_load_with_the_package(pipe, video, tmp_path):
    pipe.save_pretrained(tmp_path / "first")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert config["custom_pipelines"]["temporal-action-localization"]["impl"] == (
        "pipeline_re2tal.TemporalActionLocalizationPipeline"
    )
    for trust in (None, True):
        loaded = pipeline("temporal-action-localization", model=str(tmp_path / "first"), trust_remote_code=trust)
        assert type(loaded) is TemporalActionLocalizationPipeline
        assert type(loaded.model) is Re2TALForTemporalActionLocalization
        assert_same_actions(loaded(video), pipe(video))
    loaded.model.save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == config
    loaded.save_pretrained(tmp_path / "second")
    assert json.loads((tmp_path / "second" / "config.json").read_text()) == config
    assert {file.name for file in (tmp_path / "first").iterdir()} == {
        file.name for file in (tmp_path / "second").iterdir()
    }


WITHOUT_THE_PACKAGE = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "re2tal_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from transformers import pipeline

first, second, video = sys.argv[1:]
pipe = pipeline(model=first, trust_remote_code=True)
rows = pipe(video)
pipe.save_pretrained(second)
again = pipeline("temporal-action-localization", model=second, trust_remote_code=True)
assert type(again).__module__ != type(pipe).__module__
assert again(video) == rows
try:
    pipeline("temporal-action-localization", model=first, trust_remote_code=False)
except ValueError as error:
    refused = str(error)
print(json.dumps({"rows": rows, "refused": refused, "module": type(pipe).__module__}))
"""


@pytest.mark.training
def test_saved_pipelines_load_without_the_package(pipe, video, tmp_path):
    pipe.save_pretrained(tmp_path / "first")
    arguments = [sys.executable, "-c", WITHOUT_THE_PACKAGE, tmp_path / "first", tmp_path / "second", video]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert_same_actions(printed["rows"], pipe(video))
    assert printed["module"].startswith("transformers_modules.")
    assert "trust_remote_code=True" in printed["refused"]
    loaded = pipeline("temporal-action-localization", model=str(tmp_path / "second"))
    assert type(loaded) is TemporalActionLocalizationPipeline
    assert_same_actions(loaded(video), pipe(video))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: load_pipeline(5), "model is 5; it must be a folder"),
        (lambda pipe: load_pipeline("no", device="gpu"), "device is 'gpu'"),
        (lambda pipe: TemporalActionLocalizationPipeline(model="user/model"), "model is 'user/model'; .* loads it"),
        (lambda pipe: TemporalActionLocalizationPipeline(model=pipe.model, video_processor=3), "video_processor is 3"),
        (lambda pipe: TemporalActionLocalizationPipeline(model=pipe.model, batch_size=0), "batch_size is 0"),
        (lambda pipe: TemporalActionLocalizationPipeline(model=pipe.model, device="meta"), "device is 'meta'"),
        (lambda pipe: Re2TALForTemporalActionLocalization.from_pretrained(5), "pretrained_model_name_or_path is 5"),
        (lambda pipe: Re2TALForTemporalActionLocalization({"a": 1}), "takes a Re2TALConfig, not a dict"),
        (lambda pipe: pipe.save_pretrained(None), "save_directory is None"),
        (lambda pipe: pipe.model.freeze(stage=1), "no argument 'stage'; did you mean 'stages'"),
        (lambda pipe: pipe.model.freeze(backbone="yes"), "backbone is 'yes'"),
        (lambda pipe: setattr(pipe.model, "backprop", "fast"), "backprop is 'fast'"),
        (lambda pipe: pipe.video_processor.read_window(5, 6), "reader is 5"),
        (
            lambda pipe: pipe(np.zeros((8, 8, 8, 3), np.uint8), frame_rate=0.001),
            "Check duration, frame_rate.*max_f",
        ),
        (lambda pipe: pipe(np.zeros((8, 8, 8, 3), np.uint8), frame_rate="10"), "frame_rate is '10'"),
        (lambda pipe: pipe("a.mp4", treshold=0.5), "no argument 'treshold'; did you mean 'threshold'"),
    ],
)
def test_wrong_arguments_are_named(pipe, call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(pipe)


@pytest.mark.training
def test_few_frames_of_a_long_time_are_looked_at_where_asked_for(pipe):
    frames = np.zeros((20, 8, 8, 3), np.uint8)
    assert pipe({"frames": frames, "frame_rate": 0.02}, max_frames=10**6, batch_size=64)
