"""Publishes a training run, the metric's Space or the demo Space on the Hub; private unless told otherwise.

python scripts/publish.py runs/first --repo user/name
python scripts/publish.py --metric --repo user/tal_map
python scripts/publish.py --app --repo user/demo
"""

import argparse
import logging
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from re2tal_hf.publishing.model_card import CardOptions
from re2tal_hf.publishing.run_folder import MODEL_FOLDERS, read_run
from re2tal_hf.publishing.staging import stage_app, stage_metric, stage_model
from re2tal_hf.publishing.upload import Target, UploadError, publish, staged_files

REPOSITORY = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("run", nargs="?", help="the --output of scripts/train.py")
    source.add_argument("--metric", action="store_true", help="the metric's Space")
    source.add_argument("--app", action="store_true", help="the demo Space")
    parser.add_argument("--repo", required=True, metavar="USER/NAME")
    parser.add_argument("--public", action="store_true", help="a new repository is public")
    parser.add_argument("--tag", default=f"v{version('re2tal_hf')}", help="name of the version (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be uploaded; contacts nothing")
    parser.add_argument("--output", type=Path, help="write what would be uploaded into this folder, and upload nothing")
    model = parser.add_argument_group("a run")
    model.add_argument("--which", choices=MODEL_FOLDERS, default="best")
    model.add_argument("--notes", type=Path, help="Markdown file whose sections go into those of the card")
    model.add_argument("--data-name", help="name of the data set in the card")
    model.add_argument("--license", help="of weights whose origin leaves it open, by its name on the Hub")
    model.add_argument("--max-shard-size", default="50GB", help="of a file of weights (%(default)s)")
    return parser.parse_args()


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
        notes=arguments.notes.read_text() if arguments.notes else "",
    )
    run = read_run(arguments.run, arguments.which)
    return stage_model(run, options, REPOSITORY / "LICENSE", folder, arguments.max_shard_size)


def print_plan(target: Target, folder: Path) -> None:
    files = staged_files(folder)
    for name, size in files.items():
        print(f"{size:>13,}  {name}")
    visibility = "private" if target.private else "public"
    print(f"{sum(files.values()):>13,}  bytes in {len(files)} files")
    print(f"{target.repo_type} {target.repo_id}, {visibility}, tag {target.tag}")


def main() -> None:
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    output: Path | None = arguments.output
    try:
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
    except (ValueError, OSError, UploadError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
