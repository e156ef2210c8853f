"""The demo page in a real browser: what a visitor sees, clicks and takes home."""

import csv
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from app_factory import APP, EXAMPLES, served_page
from video_factory import numbered_frames, write_video

from re2tal_hf.demo.localization import Localizer

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

ARGUMENTS = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LOW = 0.05


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served_page(tmp_path_factory.mktemp("uploads")) as address:
        yield address


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end there must have been no error and no request to anyone else."""
    troubles: list[str] = []
    pages = []

    def open_page(address: str, viewport: dict = DESKTOP, theme: str = "light") -> Any:
        page = browser.new_page(viewport=viewport)
        page.set_default_timeout(120_000)  # nothing is measured by it: a slow machine takes its time
        # Gradio plays an example under the pointer and pauses it when the pointer leaves, which may come first.
        left = "The play() request was interrupted"
        page.on("pageerror", lambda error: None if left in str(error) else troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        local = (address, "blob:", "data:")
        page.on("request", lambda sent: troubles.append(sent.url) if not sent.url.startswith(local) else None)
        page.goto(f"{address}/?__theme={theme}")
        page.locator("#alert p").wait_for(state="attached")  # with it comes what takes files
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert troubles == []


def send(page: Any, video: Path) -> None:
    page.set_input_files("input[type=file]", video)
    page.locator("#input video").wait_for()


def find_actions(page: Any) -> None:
    page.get_by_role("button", name="Find actions").click()
    page.locator("#timeline .lanes > *").first.wait_for()


def read_table(page: Any) -> list[tuple[float, float, str, float]]:
    rows = page.eval_on_selector_all(
        "#timeline tbody tr", "lines => lines.map(line => [...line.cells].map(cell => cell.textContent))"
    )
    return [(float(start), float(end), label, float(score)) for start, end, label, score in rows]


def set_threshold(page: Any, value: float) -> None:
    box = page.get_by_label("number input for Score threshold")
    box.fill(str(value))
    box.press("Enter")


def wait_for_rows(page: Any, count: int) -> None:
    page.wait_for_function(f"document.querySelectorAll('#timeline tbody tr').length === {count}")


def player(page: Any, expression: str) -> Any:
    return page.eval_on_selector("#timeline video", f"video => video.{expression}")


def wait_for_player(page: Any, condition: str) -> None:
    page.wait_for_function(
        f"(() => {{ const video = document.querySelector('#timeline video'); return {condition}; }})()"
    )


def playhead(page: Any) -> float:
    """The second of the video at which the line over the lanes stands."""
    share = page.evaluate("getComputedStyle(document.querySelector('#timeline .lanes')).getPropertyValue('--time')")
    return float(share) * player(page, "duration")


def wait_for_start(page: Any, start: float) -> None:
    """Until the video has played from there, however far it has come since."""
    begins = f"[...Array(video.played.length).keys()].some(i => Math.abs(video.played.start(i) - {start}) < 0.3)"
    wait_for_player(page, f"!video.paused && {begins}")


def assert_playhead_follows(page: Any) -> None:
    """Pauses; the line is then where the video is."""
    player(page, "pause()")
    share = "getComputedStyle(document.querySelector('#timeline .lanes')).getPropertyValue('--time')"
    wait_for_player(page, f"Math.abs({share} * video.duration - video.currentTime) < 0.3")
    assert playhead(page) > 0


def test_from_upload_to_timeline(open_page: Callable, address: str) -> None:
    page = open_page(address)
    send(page, EXAMPLES[0])
    find_actions(page)
    set_threshold(page, LOW)
    page.wait_for_function("document.querySelectorAll('#timeline tbody tr').length > 6")
    rows = read_table(page)
    assert rows == sorted(rows, key=lambda row: row[:2]) and page.locator("#timeline .bar").count() == len(rows)
    assert set(page.locator("#timeline .name").all_text_contents()) == {label for _, _, label, _ in rows}

    # The threshold, dragged.
    page.locator("#timeline input[type=range]").scroll_into_view_if_needed()
    handle = page.locator("#timeline input[type=range]").bounding_box()
    middle = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + 8, middle)
    page.mouse.down()
    page.mouse.move(handle["x"] + 0.3 * handle["width"], middle, steps=5)
    page.mouse.up()
    threshold = float(page.get_by_label("number input for Score threshold").input_value())
    assert 0.2 < threshold < 0.45
    kept = [row for row in rows if row[3] >= threshold + 0.005]
    page.wait_for_function(f"document.querySelectorAll('#timeline tbody tr').length < {len(rows)}")
    assert [row for row in read_table(page) if row[3] >= threshold + 0.005] == kept

    # A class, taken away and put back.
    set_threshold(page, LOW)
    wait_for_rows(page, len(rows))
    label = rows[0][2]
    tick = page.get_by_role("checkbox", name=label, exact=True)
    tick.uncheck()
    wait_for_rows(page, sum(row[2] != label for row in rows))
    assert label not in page.locator("#timeline .name").all_text_contents()
    tick.check()
    wait_for_rows(page, len(rows))


def test_bars_play_the_video_from_their_start(open_page: Callable, address: str) -> None:
    page = open_page(address)
    send(page, EXAMPLES[0])
    find_actions(page)
    set_threshold(page, LOW)
    page.wait_for_function("document.querySelectorAll('#timeline tbody tr').length > 1")
    start, end, label, score = max(read_table(page), key=lambda row: row[3])
    bar = page.get_by_role("button", name=f"Play {label}, {start:.2f} to {end:.2f} s, score {score:.2f}", exact=True)
    assert player(page, "currentTime") == 0
    bar.click()
    wait_for_start(page, start)
    page.locator("#timeline tr[aria-current=true]", has_text=label).first.wait_for()
    assert_playhead_follows(page)

    player(page, "currentTime = 0")
    bar.focus()
    page.keyboard.press("Enter")
    wait_for_player(page, f"!video.paused && video.currentTime >= {start}")
    player(page, "pause()")
    page.locator("#timeline .row-start").first.click()
    first = read_table(page)[0][0]
    wait_for_start(page, first)


def test_downloads_hold_what_is_shown(open_page: Callable, address: str, tmp_path: Path) -> None:
    page = open_page(address)
    send(page, EXAMPLES[0])
    find_actions(page)
    set_threshold(page, 0.2)
    lowest = "Math.min(...[...document.querySelectorAll('#timeline tbody tr')].map(row => row.cells[3].textContent))"
    page.wait_for_function(f"{lowest} >= 0.195")
    rows = read_table(page)
    assert rows
    files = {}
    for kind in ("json", "csv", "srt", "vtt"):
        with page.expect_download() as download:
            page.locator(f"#download-{kind}").click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
        assert files[kind].name == f"{EXAMPLES[0].stem}.{kind}"
    found = json.loads(files["json"].read_text())
    assert [(row["start"], row["label"]) for row in found] == [
        (pytest.approx(row[0], abs=0.006), row[2]) for row in rows
    ]
    with files["csv"].open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [row[2] for row in rows]
    assert files["srt"].read_text().count(" --> ") == files["vtt"].read_text().count(" --> ") == len(rows)


def test_annotated_video_on_request(open_page: Callable, address: str) -> None:
    page = open_page(address)
    send(page, EXAMPLES[1])
    find_actions(page)
    page.get_by_role("button", name="Make annotated video").click()
    page.wait_for_function("[...document.querySelectorAll('video')].some(each => each.src.includes('_actions.mp4'))")


def test_real_clip_of_another_format_is_played(open_page: Callable, address: str, real_videos: Path) -> None:
    page = open_page(address)
    page.set_input_files("input[type=file]", real_videos / "test.avi")
    page.wait_for_function("document.querySelector('#input video, #input .file-name, #input [aria-label=\"Clear\"]')")
    find_actions(page)
    wait_for_player(page, "video.readyState >= 1 && Math.abs(video.duration - 6.56) < 0.1")
    assert (player(page, "videoWidth"), player(page, "videoHeight")) == (320, 240)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("old.avi", "mpeg4", "yuv420p"),
        ("recording.ts", "libx264", "yuv420p"),
        ("pictures.gif", "gif", "rgb8"),
        ("archive.mkv", "ffv1", "yuv420p"),
        ("desk.wmv", "wmv2", "yuv420p"),
        ("deep.mp4", "libx264", "yuv444p10le"),
    ],
)
def test_what_no_browser_plays_is_taken_and_played(
    open_page: Callable, address: str, tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    video = write_video(tmp_path / name, numbered_frames(30), 10, codec=codec, pixel_format=pixels, b_frames=0)
    page = open_page(address)
    send(page, video)
    page.wait_for_function("document.querySelector('#input video').readyState > 1")
    assert page.locator("#alert p").text_content() == ""
    find_actions(page)
    wait_for_player(page, "video.readyState >= 1 && Math.abs(video.duration - 3) < 0.2")


def test_a_dropped_file_is_taken_like_a_chosen_one(open_page: Callable, address: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / "recording.ts", numbered_frames(30), 10)
    page = open_page(address)
    page.locator("#input input[type=file]").wait_for(state="attached")
    dropped = page.evaluate_handle(
        """bytes => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "recording.ts"));
            return files;
        }""",
        list(video.read_bytes()),
    )
    page.dispatch_event("#input button", "drop", {"dataTransfer": dropped})
    page.wait_for_function("document.querySelector('#input video')?.readyState > 1")


def test_an_error_stays_until_the_next_try(open_page: Callable, address: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    page = open_page(address)
    send(page, EXAMPLES[0])
    find_actions(page)
    page.get_by_label("Model").fill("user/no model")
    page.get_by_role("button", name="Find actions").click()
    alert = page.locator("#alert p")
    playwright.expect(alert).to_contain_text("is not a model's id")
    # The one over the page goes away; the other stays, and no older result with it.
    page.locator(".toast-close").first.click()
    playwright.expect(page.locator("[data-testid=toast-text]")).to_have_count(0)
    playwright.expect(alert).to_be_visible()
    playwright.expect(page.locator("#result")).to_be_hidden()
    page.get_by_label("Model").fill("")
    find_actions(page)
    playwright.expect(alert).to_be_hidden()

    page.locator("#input button[aria-label=Clear]").click()
    page.set_input_files("input[type=file]", tmp_path / "text.mp4")
    playwright.expect(alert).to_contain_text("text.mp4: not a video")


def test_who_waits_sees_how_many_come_first_and_may_leave(
    open_page: Callable, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    run_windows = Localizer._run_windows
    held = lambda *arguments: (release.wait(60), run_windows(*arguments))[1]  # noqa: E731
    monkeypatch.setattr(Localizer, "_run_windows", held)
    first, second = open_page(address), open_page(address)
    for page in (first, second):
        send(page, EXAMPLES[0])
        page.get_by_role("button", name="Find actions").click()
        page.get_by_role("button", name="Stop").wait_for()
    second.locator("#status").get_by_text("Waiting: 1 before this one").wait_for()
    second.get_by_role("button", name="Stop").click()
    second.get_by_role("button", name="Find actions").wait_for()
    release.set()
    first.locator("#timeline .lanes > *").first.wait_for()
    find_actions(second)


def test_playhead_follows_a_real_sequence(open_page: Callable, address: str, ut_interaction: Path) -> None:
    page = open_page(address)
    send(page, min((ut_interaction / "videos").glob("*.mp4")))
    find_actions(page)
    player(page, "play()")
    wait_for_player(page, "video.currentTime > 0.5")
    assert_playhead_follows(page)


def test_examples_are_a_click_away(open_page: Callable, address: str) -> None:
    page = open_page(address)
    page.locator(".gallery-item").last.click()
    page.locator("#input video").wait_for()
    find_actions(page)
    assert EXAMPLES[1].name in player(page, "src")


def test_bad_file_gets_a_message_and_the_page_goes_on(open_page: Callable, address: str, tmp_path: Path) -> None:
    page = open_page(address)
    page.get_by_role("button", name="Find actions").click()
    page.get_by_role("alert").get_by_text("There is no video yet").wait_for()
    page.get_by_label("Model").fill("user/no model")
    page.locator(".gallery-item").first.click()
    page.locator("#input video").wait_for()
    page.get_by_role("button", name="Find actions").click()
    page.get_by_role("alert").get_by_text("is not a model's id").wait_for()
    page.get_by_label("Model").fill("")
    find_actions(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone_needs_no_sideways_scrolling(open_page: Callable, address: str, theme: str) -> None:
    page = open_page(address, PHONE, theme)
    send(page, EXAMPLES[0])
    find_actions(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator("#timeline .lanes").bounding_box()["width"] > 300
    shades = page.evaluate(
        """() => [".lanes", ".name", "td"].map((part) => {
            const style = getComputedStyle(document.querySelector(`#timeline ${part}`));
            return (part === ".lanes" ? style.backgroundColor : style.color).match(/[0-9.]+/g).slice(0, 3).map(Number);
        })"""
    )
    background, *texts = (sum(shade) / 3 for shade in shades)
    assert all(abs(text - background) > 125 for text in texts)


def test_labels_are_shown_as_text(open_page: Callable, tmp_path: Path) -> None:
    shutil.copytree(APP / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    attacks = [
        "<img src=x onerror=\"document.title='attacked'\">",
        "[press](javascript:alert(1)) ![](http://127.0.0.1:9/seen.png)",
        "=cmd|' /C calc'!A0",
        "\u202egnp\n# A heading\n<script>document.title='attacked'</script>",
    ]
    config["id2label"] = {key: f"{attacks[int(key)]} {name}" for key, name in config["id2label"].items()}
    config["label2id"] = {name: int(key) for key, name in config["id2label"].items()}
    file.write_text(json.dumps(config))
    with served_page(tmp_path / "uploads", model=str(tmp_path / "model"), keep_seconds=4) as address:
        page = open_page(address)
        send(page, EXAMPLES[0])
        find_actions(page)
        set_threshold(page, LOW)
        page.wait_for_function("document.querySelectorAll('#timeline tbody tr').length > 1")
        player(page, "play()")
        shown = {row[2] for row in read_table(page)}
        assert shown and shown <= set(config["id2label"].values())
        assert page.locator("img[src=x], img[src*='127.0.0.1:9'], a[href^=javascript]").count() == 0
        assert page.get_by_role("heading", name="A heading").count() == 0
        page.wait_for_timeout(500)
        assert page.title() != "attacked"
        until = time.monotonic() + 120
        kept = {path.name for path in EXAMPLES}
        while left := {path.name for path in (tmp_path / "uploads").rglob("*.*") if path.is_file()} - kept:
            assert time.monotonic() < until, left
            time.sleep(0.5)
