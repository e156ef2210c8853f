"""Marking in a real browser: keys, borders, undoing, zoom on an hour of video, and a phone."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from killed_training import make_recipe
from test_app_browser import ARGUMENTS, CHROMIUM, DESKTOP, PHONE
from video_factory import numbered_frames, write_video

from re2tal_hf.pipeline_re2tal import load_pipeline
from re2tal_hf.training.recipe_yaml import write_yaml

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

HOUR = 3600
ATTACK = "<img src=x onerror=document.title='attacked'>"


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("hour") / "hour.mp4", numbered_frames(HOUR), 1)


@pytest.fixture
def folder(tmp_path: Path, hour: Path) -> Path:
    shutil.copy(hour, tmp_path / f"{ATTACK}.mp4")
    write_video(tmp_path / "short.mkv", numbered_frames(30), 10, codec="mpeg4", b_frames=0)
    return tmp_path


@contextmanager
def served(folder: Path, pipe: Any = None, recipe: str = "auto") -> Iterator[str]:
    """Serves the page and gives its address; `pipe` is the model that proposes, `recipe` that by which it trains."""
    import uvicorn

    from re2tal_hf.annotate.project import Project
    from re2tal_hf.annotate.proposals import Proposals
    from re2tal_hf.annotate.server import Server, listen
    from re2tal_hf.annotate.training import Training

    project, opened = Project(folder), listen(0)
    proposals = Proposals(project, pipe)
    training = Training(project, recipe, lambda run: proposals.use(load_pipeline(str(run / "best"))))
    server = Server(project, proposals, training)
    running = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/?key={server.key}"
    finally:
        running.should_exit = running.force_exit = True
        thread.join(30)
        training.close()
        proposals.close()


@contextmanager
def opened_page(address: str, viewport: dict[str, int] = DESKTOP) -> Iterator[Any]:
    """Opens the page; at the end there must have been no error."""
    troubles: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport=viewport)
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.goto(address)
        yield page
        browser.close()
    assert troubles == []


@pytest.fixture
def page(folder: Path) -> Iterator[Any]:
    with served(folder) as address, opened_page(address) as page:
        page.locator("#videos button", has_text="<img").click()
        player_at(page, 0)
        yield page


def player_at(page: Any, seconds: float) -> None:
    page.locator("#player").evaluate(
        """async (video, seconds) => {
            while (video.readyState < 2 || video.seeking) await new Promise((done) => setTimeout(done, 20));
            video.currentTime = seconds;
            while (video.readyState < 2 || video.seeking) await new Promise((done) => setTimeout(done, 20));
        }""",
        seconds,
    )


def mark(page: Any, start: float, end: float) -> None:
    player_at(page, start)
    page.keyboard.press("i")
    player_at(page, end)
    page.keyboard.press("o")


def saved(page: Any, folder: Path) -> list[tuple[float, float, str]]:
    playwright.expect(page.locator("#saved")).to_have_text("Saved")
    database = json.loads((folder / "annotations.json").read_text())["database"]
    return [(*action["segment"], action["label"]) for entry in database.values() for action in entry["annotations"]]


def test_an_hour_is_marked_by_keys(page: Any, folder: Path) -> None:
    page.fill("#class-name", ATTACK)
    page.press("#class-name", "Enter")
    mark(page, 1800.5, 1830.5)
    assert saved(page, folder) == [(1800.0, 1830.0, ATTACK)]

    for _ in range(6):
        page.keyboard.press("+")
    bar = page.locator("#timeline .action").bounding_box()
    assert bar["width"] > 300
    handle = page.locator("#timeline .handle.end").bounding_box()
    view = page.locator("#timeline .view").bounding_box()
    page.mouse.move(handle["x"] + 4, handle["y"] + 8)
    page.mouse.down()
    page.mouse.move(handle["x"] + 4 + view["width"] * 10 / (HOUR / 64), handle["y"] + 8, steps=4)
    page.mouse.up()
    [(start, end, label)] = saved(page, folder)
    assert (start, label) == (1800.0, ATTACK) and end == pytest.approx(1840, abs=1.5)

    page.keyboard.press("Control+z")
    assert saved(page, folder) == [(1800.0, 1830.0, ATTACK)]
    page.keyboard.press("Control+Shift+Z")
    assert saved(page, folder) == [(start, end, label)]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    assert saved(page, folder) == []
    page.keyboard.press("Control+z")
    assert saved(page, folder) == [(start, end, label)]
    assert page.title() == "Mark actions" and page.locator("img[src=x]").count() == 0
    strip = page.locator("#timeline .strip")
    playwright.expect(strip).to_have_js_property("naturalHeight", 54)


def test_another_format_is_played_on_a_phone(page: Any, folder: Path) -> None:
    page.set_viewport_size(PHONE)
    page.locator("#videos button", has_text="short").click()
    player_at(page, 0)
    page.fill("#class-name", "wave")
    page.get_by_role("button", name="Add class").click()
    player_at(page, 1.05)
    page.get_by_role("button", name="Start", exact=True).click()
    player_at(page, 2.05)
    page.get_by_role("button", name="End", exact=True).click()
    assert saved(page, folder) == [(1.0, 2.0, "wave")]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("button", name="Finished, next").click()
    playwright.expect(page.locator("h1")).to_have_text(ATTACK)
    entry = json.loads((folder / "annotations.json").read_text())["database"]["short"]
    assert entry["subset"] == "training"


GHOSTS = [
    {"label": "wave", "score": 0.9, "start": 0.5, "end": 1.0},
    {"label": "wave", "score": 0.6, "start": 1.4, "end": 2.0},
    {"label": "jump", "score": 0.4, "start": 1.7, "end": 2.3},
    {"label": "jump", "score": 0.1, "start": 2.4, "end": 2.8},
]
# What one of the classes is, the model does not know.
UNSURE = [
    {"label": "wave", "score": 0.9, "start": 0.5, "end": 1.5},
    {"label": "jump", "score": 0.8, "start": 0.6, "end": 1.5},
    {"label": "wave", "score": 0.7, "start": 2.0, "end": 2.5},
]


class FoundBefore:
    """A model in which nothing but what it is known to find is left."""

    model = SimpleNamespace(name_or_path="known", config=SimpleNamespace(id2label={0: "wave", 1: "jump"}))

    def __call__(self, path: str, *, top_k: int, progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
        progress(1, 1)
        return {"short": GHOSTS, "unsure": UNSURE}.get(Path(path).stem, [])


def shown(page: Any, count: int) -> list[str]:
    ghosts = page.locator("#timeline .ghost")
    playwright.expect(ghosts).to_have_count(count)
    return ghosts.all_inner_texts()


def test_proposals_are_accepted_and_rejected_by_keys(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", numbered_frames(30), 10)
    with served(tmp_path, FoundBefore()) as address, opened_page(address) as page:
        assert shown(page, 3) == ["wave 0.90", "wave 0.60", "jump 0.40"]
        player_at(page, 0.75)
        page.keyboard.press("a")
        assert saved(page, tmp_path) == [(0.5, 1.0, "wave")]
        assert shown(page, 2) == ["wave 0.60", "jump 0.40"]
        page.keyboard.press("x")
        assert shown(page, 1) == ["jump 0.40"]
        page.keyboard.press("Control+z")
        shown(page, 2)
        page.keyboard.press("Control+z")
        shown(page, 3)
        assert saved(page, tmp_path) == []
        page.locator("#least").fill("0.5")
        shown(page, 2)
        page.keyboard.press("Shift+A")
        assert saved(page, tmp_path) == []  # the slider has the keys while it is in focus
        page.locator("#least").blur()
        page.keyboard.press("Shift+A")
        playwright.expect(page.locator("#timeline .action")).to_have_count(2)
        assert saved(page, tmp_path) == [(0.5, 1.0, "wave"), (1.4, 2.0, "wave")]
        page.locator("#least").fill("0")
        assert shown(page, 2) == ["jump 0.40", "jump 0.10"]


def test_of_proposals_at_one_place_the_best_is_shown(tmp_path: Path) -> None:
    write_video(tmp_path / "unsure.mp4", numbered_frames(30), 10)
    with served(tmp_path, FoundBefore()) as address, opened_page(address) as page:
        assert shown(page, 2) == ["wave 0.90", "wave 0.70"]
        player_at(page, 1.0)
        page.keyboard.press("x")
        assert shown(page, 2) == ["jump 0.80", "wave 0.70"]
        page.keyboard.press("Control+z")
        page.keyboard.press("Shift+A")
        assert saved(page, tmp_path) == [(0.5, 1.5, "wave"), (2.0, 2.5, "wave")]
        shown(page, 0)
        page.get_by_label("One at a place").uncheck()
        assert shown(page, 1) == ["jump 0.80"]
        page.keyboard.press("Control+z")
        assert shown(page, 3) == ["wave 0.90", "jump 0.80", "wave 0.70"]


def test_proposals_are_accepted_on_a_phone(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", numbered_frames(30), 10)
    with served(tmp_path, FoundBefore()) as address, opened_page(address, PHONE) as page:
        shown(page, 3)
        page.locator("#timeline .ghost", has_text="jump").click()
        page.get_by_role("button", name="Accept", exact=True).click()
        assert saved(page, tmp_path) == [(1.7, 2.3, "jump")]
        page.get_by_role("button", name="Accept all 2").click()
        playwright.expect(page.locator("#timeline .ghost")).to_have_count(0)
        assert [label for *_, label in saved(page, tmp_path)] == ["wave", "wave", "jump"]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_order_of_the_queue_is_chosen(tmp_path: Path) -> None:
    for name in ("empty", "short"):
        write_video(tmp_path / f"{name}.mp4", numbered_frames(30), 10)
    with served(tmp_path, FoundBefore()) as address, opened_page(address, PHONE) as page:
        page.locator("#queue summary").click()
        names = page.locator("#videos .name")
        page.locator("#videos button", has_text="short").click()
        shown(page, 3)
        playwright.expect(names).to_have_text(["short", "empty"])
        page.select_option("#order", "listed")
        playwright.expect(names).to_have_text(["empty", "short"])
        page.keyboard.press("p")
        playwright.expect(page.locator("h1")).to_have_text("empty")
        shown(page, 0)


@pytest.mark.training
def test_a_training_on_what_is_finished_gives_the_model_that_proposes(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    recipe = make_recipe(tmp_path).to_dict()
    recipe["training"]["epochs"] = 2
    recipe["evaluation"]["start_epoch"] = 2
    for name in ("annotations", "videos", "cache"):
        recipe["data"][name] = None
    (tmp_path / "quick.yaml").write_text(write_yaml(recipe), encoding="utf-8")
    for path in list(videos.iterdir()):
        shutil.copy(path, videos / f"again_{path.name}")
    with served(videos, recipe=str(tmp_path / "quick.yaml")) as address, opened_page(address) as page:
        train, status = page.get_by_role("button", name="Train", exact=True), page.locator("#trained")
        playwright.expect(page.locator("#proposals")).to_be_hidden()
        page.fill("#class-name", "wave")
        page.press("#class-name", "Enter")
        for count in range(1, 5):
            mark(page, 1, 5)
            page.keyboard.press("f")
            playwright.expect(page.locator("#count")).to_have_text(f"{count} of 6 finished")
        train.click()
        stop = page.get_by_role("button", name="Stop the training")
        playwright.expect(status).to_contain_text("epoch", timeout=120_000)
        stop.click()
        playwright.expect(status).to_contain_text("runs/1 keeps what it had learned", timeout=120_000)
        train.click()
        playwright.expect(status).to_have_text("Proposals are of the new model, runs/2/run", timeout=240_000)
        playwright.expect(page.locator("#proposals")).to_be_visible()
        page.locator("#least").fill("0")
        page.locator("#timeline .ghost").first.wait_for()
    database = json.loads((videos / "runs/2/annotations.json").read_text())["database"]
    assert sorted(entry["subset"] for entry in database.values()) == ["training"] * 3 + ["validation"]


def test_late_answers_do_not_take_the_place_of_newer_ones(tmp_path: Path) -> None:
    for name in ("empty", "short"):
        write_video(tmp_path / f"{name}.mp4", numbered_frames(30), 10)
    with served(tmp_path, FoundBefore()) as address, opened_page(address) as page:
        names = page.locator("#videos .name")
        shown(page, 0)
        playwright.expect(names).to_have_text(["short", "empty"])
        page.evaluate(
            """() => {
                const before = window.fetch;
                window.fetch = async (address, options) => {
                    const answer = await before(address, options);
                    const late = /order=uncertain$|videos\\/1$/.test(address);
                    if (late) await new Promise((resolve) => setTimeout(resolve, 700));
                    return answer;
                };
            }"""
        )
        page.evaluate("for (const name of ['uncertain', 'listed']) { const list = document.getElementById('order');"
                      "list.value = name; list.dispatchEvent(new Event('change')); }")  # fmt: skip
        page.wait_for_timeout(1500)
        playwright.expect(names).to_have_text(["empty", "short"])
        page.evaluate("for (const place of [1, 0]) document.querySelectorAll('#videos button')[place].click()")
        page.wait_for_timeout(1500)
        playwright.expect(page.locator("h1")).to_have_text("empty")
