"""What the operator of the page decides, on the command line or by environment variables."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Settings of the page; each is also an environment variable, `RE2TAL_` and its name in capitals.

    Attributes:
        model: folder of a model or of a training run, or a Hub id: the model of the page.
        examples: folder of videos (.mp4) that are offered as examples; none where empty.
        max_seconds: longest video, in seconds.
        max_megabytes: largest video file.
        max_frames: most frames of a video.
        max_gigapixels: most pixels of all frames of a video, in billions: what decoding it costs.
        max_run_seconds: longest time for which a visitor's video is worked on.
        max_model_megabytes: largest model that a visitor may ask for.
        keep_seconds: age in seconds at which uploads and results are deleted.
        trust_remote_code: whether the code in a visitor's model is run. It can do anything that this process can.
        host: address to listen on.
        port: port to listen on; None for the first free one from 7860.
    """

    model: str
    examples: str = ""
    max_seconds: float = 600.0
    max_megabytes: float = 200.0
    max_frames: int = 40_000
    max_gigapixels: float = 10.0
    max_run_seconds: float = 600.0
    max_model_megabytes: float = 1000.0
    keep_seconds: float = 3600.0
    trust_remote_code: bool = False
    host: str = "127.0.0.1"
    port: int | None = None


def read_settings(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None, home: Path | None = None
) -> Settings:
    """Reads the command line; what it leaves out comes from the environment, then from the defaults.

    Args:
        arguments: in place of those of the process.
        environment: in place of that of the process. `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT` hold too.
        home: folder whose `model/` and `examples/` are the defaults.

    Raises:
        SystemExit: with a message, if a value is not of its kind.
    """
    parser = argparse.ArgumentParser(description="Which actions happen in a video, and from when to when: a web page.")
    add_settings(parser, os.environ if environment is None else environment, home)
    return settings_of(parser.parse_args(arguments))


def add_settings(parser: argparse.ArgumentParser, environment: Mapping[str, str], home: Path | None = None) -> None:
    """Adds an option for each of the settings; see `read_settings`."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(Settings)} | (
        {name: str(home / name) for name in ("model", "examples")} if home else {}
    )

    def add(name: str, kind: Callable[[str], Any], text: str, fallback: str | None = None) -> None:
        preset = environment.get(f"RE2TAL_{name.upper()}", environment.get(fallback or "", defaults[name]))
        shown = text if preset is MISSING else f"{text} (now: {preset})"
        option = parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=preset is MISSING, help=shown)
        option.default = None if preset is MISSING else preset

    add("model", str, "folder of a model or of a training run, or a Hub id")
    add("examples", str, "folder of videos (.mp4) that are offered as examples")
    add("max_seconds", _positive, "longest video, in seconds")
    add("max_megabytes", _positive, "largest video file")
    add("max_frames", _positive_whole, "most frames of a video")
    add("max_gigapixels", _positive, "most pixels of a video, frames times width times height, in billions")
    add("max_run_seconds", _positive, "longest time for which a visitor's video is worked on, in seconds")
    add("max_model_megabytes", _positive, "largest model that a visitor may ask for")
    add("keep_seconds", _positive, "age in seconds at which uploads and results are deleted")
    add("host", str, "address to listen on", "GRADIO_SERVER_NAME")
    add("port", int, "port to listen on", "GRADIO_SERVER_PORT")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        default=environment.get("RE2TAL_TRUST_REMOTE_CODE", "").lower() in ("1", "true", "yes"),
        help="run the code in the models that visitors name: it can do anything that this process can",
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns the settings among the options of a command line."""
    return Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _positive_whole(text: str) -> int:
    value = _positive(text)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number")
    return int(value)
