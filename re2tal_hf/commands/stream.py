r"""Localizes actions while a video is coming in; one JSON object a line, as soon as it is certain.

re2tal stream --model runs/first rtsp://camera/1
re2tal stream --model runs/first --follow 60 recording.ts    # a file that is being written
re2tal stream --model runs/first https://host/live.m3u8      # also a playlist in a folder
ffmpeg -f v4l2 -i /dev/video0 -f mpegts - | re2tal stream --model runs/first -

Messages go to stderr: gaps, jumping clocks, dropped frames.
"""

from __future__ import annotations

import argparse
import json
import sys

from accelerate import PartialState

from ..streaming.address import Losses
from ..streaming.localization import THRESHOLD, Summary, longest_wait, stream
from ..value_checks import NOT_NEGATIVE, POSITIVE, SHARE, Range
from ._command import load_for_inference, number, run_command


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder of a model or of a run, or a Hub id")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--exact", action="store_true", help="the same to the bit for any number of threads")
    parser.add_argument("--threshold", type=number(float, SHARE), default=THRESHOLD, help="lowest score reported")
    parser.add_argument(
        "--delay",
        type=number(float, POSITIVE),
        metavar="SECONDS",
        help="after its end at which an action is said whatever overlaps it, at least a window (two windows)",
    )
    parser.add_argument(
        "--follow",
        type=number(float, POSITIVE),
        metavar="SECONDS",
        help="the file is being written, and has ended when it did not grow for so long",
    )
    defaults = Losses()
    parser.add_argument(
        "--retries",
        type=number(int, Range(0, 10**9)),
        default=defaults.retries,
        help="tries in a row to get a lost connection back (%(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=number(float, NOT_NEGATIVE),
        default=defaults.wait,
        metavar="SECONDS",
        help="before each of them (%(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=number(float, POSITIVE),
        default=defaults.timeout,
        metavar="SECONDS",
        help="without data after which a connection is lost (%(default)s)",
    )
    parser.add_argument(
        "source",
        help="a file, a playlist (.m3u8), - for standard input, an address (http, https, rtsp, rtsps, rtmp, rtmps, "
        "udp), or camera:NAME where PyAV has cameras",
    )


def run(options: argparse.Namespace) -> int:
    losses = Losses(options.retries, options.wait, options.timeout, options.follow)
    pipe = load_for_inference(options, PartialState())
    summary = Summary()
    found = stream(
        pipe,
        options.source,
        threshold=options.threshold,
        delay=options.delay,
        exact=options.exact,
        losses=losses,
        summary=summary,
    )
    wait = longest_wait(pipe.video_processor, options.delay)
    print(f"An action is said at most {wait:.1f} s after its end.", file=sys.stderr)
    for row in found:
        print(json.dumps(row, ensure_ascii=False), flush=True)
    print(_told(summary), file=sys.stderr)
    return 0


def _told(summary: Summary) -> str:
    text = f"{summary.actions} actions in {summary.seconds:.1f} s, {summary.windows} windows."
    if summary.is_that_of_the_file:
        return f"{text} re2tal predict finds the same in the file."
    reasons = [
        f"{summary.parts} parts between gaps" if summary.parts > 1 else "",
        f"{summary.cut} said before all that overlaps them was known" if summary.cut else "",
        f"more than {summary.max_detections} actions" if summary.actions > summary.max_detections else "",
        f"{summary.late} candidates that reached back to what was said" if summary.late else "",
    ]
    return f"{text} re2tal predict may find others in the file: {', '.join(filter(None, reasons))}."


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
