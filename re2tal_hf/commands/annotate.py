"""Opens a page in the browser on which actions are marked in the videos of a folder; needs the extra [app].

re2tal annotate videos
re2tal annotate videos --annotations match.eaf    # begin with what another tool has marked
re2tal annotate videos --model runs/first         # its proposals beside, to be accepted by a key

The page trains, too, on the videos that are finished, by --recipe; then the new model proposes.

What is marked is saved at once, as annotations.json in the folder; nothing is written anywhere else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import webbrowser
from pathlib import Path

from ..training.arguments import AUTO, load_recipe
from ._command import PORTS, check_source, load_model, number, run_command

PORT = 7861


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="of the videos")
    parser.add_argument("--annotations", help="a file of any tool, to begin with")
    parser.add_argument("--model", help="folder of a model or of a run, or a Hub id, which proposes actions")
    parser.add_argument("--recipe", default=AUTO, help="by which the page trains (now: %(default)s)")
    parser.add_argument("--device", help="of the model: cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--port", type=number(int, PORTS), default=PORT, help="of this machine, to listen on (now: %(default)s)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address only")


def run(options: argparse.Namespace) -> int:
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("uvicorn") is None:
        raise ImportError("The page needs Starlette and uvicorn: pip install 're2tal_hf[app]'.")
    # After the check: they import both.
    from ..annotate.project import Project
    from ..annotate.proposals import Proposals
    from ..annotate.server import HOSTS, Server, listen, serve
    from ..annotate.training import Training

    project = Project(Path(options.folder), Path(options.annotations) if options.annotations else None)
    if options.recipe != AUTO:
        # What it says of the data does not count: the page trains on its own.
        load_recipe(options.recipe, ["data.annotations=annotations.json", "data.videos=videos"])
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(listen(options.port))
        pipe = load_model(options.model, options.device) if options.model else None
        if pipe is not None:
            check_source(pipe, False, "a model that takes videos")
        proposals = stack.enter_context(contextlib.closing(Proposals(project, pipe)))
        words = [word for path in options.imports for word in ("--import", path)]
        training = Training(
            project, options.recipe, lambda run: proposals.use(load_model(str(run), options.device)), words
        )
        stack.enter_context(contextlib.closing(training))
        server = Server(project, proposals, training)
        address = f"http://{HOSTS[0]}:{opened.getsockname()[1]}/?key={server.key}"
        print(f"{len(project.ids)} videos, marked in {project.file}\n{address}\nCtrl-C ends it.", flush=True)
        if not options.no_browser:
            webbrowser.open_new_tab(address)
        serve(server.app, opened)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
