"""Serves a model over HTTP: videos in, actions out, as jobs in a queue; needs the extra [serve].

re2tal serve runs/first
re2tal serve runs/first --host 0.0.0.0 --keys keys.txt --allow /data/videos

    curl --data-binary @match.mp4 -H "Authorization: Bearer KEY" "http://HOST:8000/v1/jobs?wait=60"

Keys come from a file, one a line, or from the environment variable RE2TAL_SERVE_KEYS.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from ..data.video_limits import VideoLimits
from ..serving.batches import Batches
from ..serving.localizer import Localizer
from ..serving.worker import WorkerProcess
from ..training.interruption import Interruption
from ..training.model_source import find_model
from ..training.own_files import import_files
from ..value_checks import COUNT, POSITIVE
from ._command import PORTS, add_run_options, check_source, load_model, number, run_command

PORT = 8000
LIMITS: dict[str, tuple[type, Any, str]] = {
    "max_megabytes": (float, 200.0, "largest video file"),
    "max_seconds": (float, 600.0, "longest video, in seconds"),
    "max_frames": (int, 40_000, "most frames of a video"),
    "max_gigapixels": (float, 10.0, "most pixels of a video, frames times width times height, in billions"),
    "max_run_seconds": (float, 600.0, "longest time for which a video is worked on, in seconds"),
    "max_upload_seconds": (float, 600.0, "longest time for which an upload is waited on, in seconds"),
    "max_jobs": (int, 32, "jobs that may be there and not have ended; more are refused, 429"),
    "keep_seconds": (float, 3600.0, "time for which a job is remembered after its end, in seconds"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a model or of a run, or a Hub id")
    add_run_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (now: %(default)s)")
    parser.add_argument(
        "--port",
        type=number(int, PORTS),
        default=PORT,
        help="port to listen on, 0 for any (now: %(default)s)",
    )
    parser.add_argument("--keys", metavar="FILE", help="of the clients, a key on each line")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder whose videos clients may name in place of sending them; may be given several times",
    )
    for name, (kind, default, text) in LIMITS.items():
        option, allowed = f"--{name.replace('_', '-')}", COUNT if kind is int else POSITIVE
        parser.add_argument(option, type=number(kind, allowed), default=default, help=f"{text} (now: %(default)s)")


def run(options: argparse.Namespace) -> int:
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise ImportError("The service needs FastAPI and uvicorn: pip install 're2tal_hf[serve]'.")
    # After the check: they import both.
    from ..annotate.server import listen, serve
    from ..serving.keys import VARIABLE, read_keys
    from ..serving.server import THIS_MACHINE, Server, ServerOptions

    keys = read_keys(options.keys, os.environ)
    if not keys and options.host not in THIS_MACHINE:
        raise ValueError(f"--host {options.host} lets other machines in: give --keys FILE, or set {VARIABLE}.")
    folders = tuple(Path(folder).resolve() for folder in options.allow)
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ValueError(f"--allow {missing[0]}: there is no such folder.")
    find_model(options.model, "MODEL")
    # uvicorn hands on the signal that has ended it, when all is put away.
    with Interruption(), contextlib.ExitStack() as stack:
        opened = stack.enter_context(listen(options.port, options.host))
        worker = WorkerProcess(functools.partial(load_work, options))
        stack.callback(worker.close)
        decided = ("max_megabytes", "max_upload_seconds", "max_jobs", "max_run_seconds", "keep_seconds")
        chosen = ServerOptions(folders, **{name: getattr(options, name) for name in decided})
        server = Server(worker, keys, chosen)
        host, port = opened.getsockname()
        who = "who has a key" if keys else "this machine"
        print(f"http://{host}:{port}/v1/jobs, for {who}; Ctrl-C ends it.", flush=True)
        serve(server.app, opened)
    return 0


def load_work(options: argparse.Namespace) -> Batches:
    """Loads the model, in the process that will run it."""
    import_files(options.imports)
    pipe = load_model(options.model, options.device, "MODEL")
    check_source(pipe, False, "a model that takes videos")
    limits = VideoLimits(options.max_seconds, options.max_megabytes, options.max_frames, options.max_gigapixels)
    return Batches(Localizer(pipe, limits, options.batch_size, options.exact))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
