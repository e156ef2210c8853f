"""Publishes a training run, the metric's Space or the demo Space on the Hub; private unless told otherwise.

re2tal publish runs/first --repo user/name
re2tal publish --metric --repo user/tal_map
re2tal publish --app --repo user/demo
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from ..data.json_files import read_text
from ..publishing.license_file import code_license
from ..publishing.model_card import CardOptions
from ..publishing.published_run import read_run
from ..publishing.staging import stage_app, stage_metric, stage_model
from ..publishing.upload import Target, publish, staged_files
from ..training.run_folder import MODELS
from ._command import run_command

REPOSITORY = Path(__file__).resolve().parents[2]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="the --output of `re2tal train`")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--metric", action="store_true", help="the metric's Space")
    source.add_argument("--app", action="store_true", help="the demo Space")
    parser.add_argument("--repo", required=True, metavar="USER/NAME")
    parser.add_argument("--public", action="store_true", help="a new repository is public")
    parser.add_argument("--tag", default=f"v{version('re2tal_hf')}", help="name of the version (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded; contacts nothing")
    parser.add_argument("--output", type=Path, help="write what would be uploaded into this folder, and upload nothing")
    model = parser.add_argument_group("a run")
    model.add_argument("--which", choices=MODELS, default="best")
    model.add_argument("--notes", type=Path, help="Markdown file whose sections go into those of the card")
    model.add_argument("--data-name", help="name of the data set in the card")
    model.add_argument("--license", help="of weights whose origin leaves it open, by its name on the Hub")
    model.add_argument("--max-shard-size", default="50GB", help="of a file of weights (%(default)s)")


def stage(arguments: argparse.Namespace, folder: Path) -> None:
    if arguments.metric:
        return stage_metric(REPOSITORY, folder)
    if arguments.app:
        return stage_app(REPOSITORY, folder)
    options = CardOptions(
        repo_id=arguments.repo,
        tag=arguments.tag,
        license=arguments.license,
        data_name=arguments.data_name,
        notes=read_text(arguments.notes) if arguments.notes else "",
    )
    run = read_run(arguments.run, arguments.which)
    return stage_model(run, options, code_license(REPOSITORY), folder, arguments.max_shard_size)


def print_plan(target: Target, folder: Path) -> None:
    files = staged_files(folder)
    for name, size in files.items():
        print(f"{size:>13,}  {name}")
    visibility = "private" if target.private else "public"
    print(f"{sum(files.values()):>13,}  bytes in {len(files)} files")
    print(f"{target.repo_type} {target.repo_id}, {visibility}, tag {target.tag}")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.run is not None) + arguments.metric + arguments.app != 1:
        raise ValueError("give the folder of a run, or --metric, or --app")
    output: Path | None = arguments.output
    repo_type = "space" if arguments.metric or arguments.app else "model"
    target = Target(arguments.repo, repo_type, not arguments.public, arguments.tag)
    if output and output.exists() and any(output.iterdir()):
        raise ValueError(f"--output {output} is not empty: name a new folder.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "staged"
        folder.mkdir()
        stage(arguments, folder)
        print_plan(target, folder)
        if output:
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.exists():
                output.rmdir()
            shutil.move(folder, output)
        elif not arguments.dry_run:
            print(publish(folder, target, message=f"re2tal_hf {version('re2tal_hf')}: {target.tag}"))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
