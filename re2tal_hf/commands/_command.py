"""What the commands share: options that several have, and how a user's error ends any of them."""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import torch
from accelerate import PartialState

from ..data.annotation_set import PointOf
from ..data.time_units import MAX_LOST
from ..pipeline_re2tal import TemporalActionLocalizationPipeline, load_pipeline
from ..training.arguments import recipe_names
from ..training.feature_settings import MODEL_TYPE
from ..training.model_source import explained, find_model, model_folder, near_folder
from ..training.own_files import import_files
from ..training.processes import leave_processes, naming_lost_processes
from ..value_checks import COUNT, POSITIVE, POSITIVE_SHARE, SHARE, Range, check_value, shown
from ._errors import expected, quiet_without_reader, stopped, unexpected

Options = argparse.Namespace
# To listen on; 0 is any.
PORTS = Range(0, 65535)
POINTS = "actions are points in time, so much of those that have a length"
# Of the other processes, before one that fails says so itself.
SECONDS_TO_SPEAK = 10.0


def run_command(
    text: str,
    add_options: Callable[[argparse.ArgumentParser], None],
    run: Callable[[Options], int],
    arguments: list[str] | None,
    log_level: int = logging.WARNING,
    name: str | None = None,
) -> int:
    """Reads a command's options, which may stand anywhere among its other arguments, and runs it.

    Args:
        text: Docstring of the command's file, for `--help`.
        add_options: Adds the command's options to a parser.
        run: The command; returns the exit code.
        arguments: Of the command; those of the process by default.
        log_level: What is less than that is not shown.
        name: Of the command; that of its file by default.

    Returns:
        The exit code: that of `run`, or 1 after a user's error, which is one line on stderr, and after one of ours,
        which is three and a file; 130 after Ctrl-C, and 143 after the SIGTERM that ends a training, each one line.

    Raises:
        SystemExit: of argparse, with 0 after `--help` and 2 where the arguments are not understood; with 141 where
            nobody reads what is printed.
    """
    parser = _Parser(
        prog=f"re2tal {name or Path(run.__code__.co_filename).stem}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="FILE",
        help="your own Python file, which registers an architecture or a head; may be given several times",
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came up")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=log_level, format="%(levelname)s: %(message)s")
    # It says when a training begins to invert.
    logging.getLogger("re2tal_hf.dual_residual").setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with quiet_without_reader(), naming_lost_processes():
            import_files(options.imports)
            code = run(options)
            leave_processes()
            return code
    except KeyboardInterrupt as interrupt:
        return stopped(interrupt)
    except Exception as error:
        if options.traceback:
            raise
        _let_the_first_process_speak()
        line = expected(error)
        given = sys.argv[1:] if arguments is None else arguments
        print(f"error: {line}" if line else unexpected(error, parser.prog, given), file=sys.stderr)
        return 1


def number(kind: type[int] | type[float], allowed: Range) -> Callable[[str], Any]:
    """Returns what reads the number of an option; NaN, infinite numbers and those out of the range are refused."""

    def read(text: str) -> Any:
        try:
            return check_value("it", kind(text), Annotated[kind, allowed])
        except ValueError:
            named = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{shown(text)} must be {named}, {allowed}") from None

    return read


def add_training_options(parser: argparse.ArgumentParser, output_required: bool = True) -> None:
    """Adds what all trainings are told: `recipe`, `output`, `resume` and `overrides`."""
    parser.add_argument("--recipe", required=True, help=f"a YAML file, or one of {recipe_names()}")
    parser.add_argument(
        "--output", required=output_required, help="the run folder; a run that was stopped in it goes on"
    )
    parser.add_argument("--resume", action="store_true", help="the folder must hold a run that goes on")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds `overrides`, fields of the recipe."""
    parser.add_argument("overrides", nargs="*", metavar="section.field=value")


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Adds what a pipeline is made of and how it runs: `model`, `device`, `batch_size` and `exact`."""
    parser.add_argument("--model", required=True, help="folder of a model or of a run, or a Hub id")
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds how a pipeline runs: `device`, `batch_size` and `exact`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--batch-size",
        type=number(int, COUNT),
        default=1,
        help="windows that go through the model together; more are faster where they are small, take more memory, and "
        "change the scores by rounding",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="the same to the bit for any --batch-size and number of threads or processes: windows go one by one, on "
        "one thread",
    )


def load_for_inference(options: Options, processes: PartialState) -> TemporalActionLocalizationPipeline:
    """Loads the model of `add_inference_options`, on the device of this process where there are several."""
    device = options.device or (processes.device if processes.num_processes > 1 else None)
    return load_model(options.model, device)


def load_model(
    name: str, device: str | torch.device | None, option: str = "--model"
) -> TemporalActionLocalizationPipeline:
    """Loads the model that an option names: a folder, that of a run, or a Hub id."""
    check_device(device)
    source = find_model(name, option)
    with explained(source, option):
        return load_pipeline(source, device=device)


def check_device(device: str | torch.device | None) -> None:
    """Raises a `ValueError` if there is no such device here; None is any."""
    if device is not None:
        try:
            torch.empty(1, device=device).cpu()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {device}: {str(error).partition('. ')[0]}.") from error


def add_features(parser: argparse.ArgumentParser) -> None:
    """Adds `features`, in place of the videos."""
    parser.add_argument(
        "--features", metavar="FOLDER", help="for a model on stored features: their folder, a file for each video"
    )


def check_source(pipe: TemporalActionLocalizationPipeline, features: bool, way: str) -> None:
    """Refuses features for a model of videos, and videos for one on features; `way` says how to give these."""
    backbone = pipe.model.config.backbone_config
    on_features = backbone.get("model_type") == MODEL_TYPE
    if on_features != features:
        fix = f"is on stored features: give {way}" if on_features else "takes videos: leave the features out"
        raise ValueError(f"The model {pipe.model.name_or_path} {fix}.")
    if features and backbone.get("stride", 1) != 1:
        raise ValueError(
            f"{pipe.model.name_or_path}: backbone_config.stride is {backbone['stride']}; it must be 1, with the "
            "stride of the features as feature_stride in its video_preprocessor_config.json."
        )


def add_annotation_options(parser: argparse.ArgumentParser) -> None:
    """Adds how annotations are read: `max_lost`, how much of them may be wrong, and `point_width`."""
    parser.add_argument(
        "--max-lost",
        type=number(float, SHARE),
        default=MAX_LOST,
        help="largest share of actions outside their video or that end before they start; default %(default)s",
    )
    add_point_width(parser)


def add_points(
    parser: argparse.ArgumentParser, use: str = f"{POINTS}, and measured as SoccerNet does: tight and loose mAP"
) -> None:
    """Adds `points`, for actions that are points in time; `use` is what the help says."""
    parser.add_argument("--points", choices=get_args(PointOf), help=use)


def add_measurement_options(parser: argparse.ArgumentParser) -> None:
    """Adds what stored detections are measured by: `annotations`, `subset` and `tiou`."""
    parser.add_argument("--annotations", required=True, help="an annotation file or folder")
    parser.add_argument("--subset", default="validation")
    add_thresholds(parser)


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Adds `tiou`, the thresholds of the mAP."""
    thresholds = [0.3, 0.4, 0.5, 0.6, 0.7]
    kind = number(float, POSITIVE_SHARE)
    parser.add_argument("--tiou", type=kind, nargs="+", default=thresholds, help="tIoU thresholds")


def detections_of(run: str) -> Path:
    """Returns the file of a run's detections, of its best model where it has one.

    Raises:
        ValueError: if there is none.
    """
    path = Path(run)
    if not path.exists():
        raise ValueError(f"{run}: there is no such folder or file{near_folder(run)}.")
    file = model_folder(path) / "detections.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{run}: no {file}; write it by `re2tal evaluate --detections`, and name that file.")
    return file


def add_point_width(parser: argparse.ArgumentParser) -> None:
    """Adds `point_width`, for annotations of points in time."""
    parser.add_argument(
        "--point-width",
        type=number(float, POSITIVE),
        metavar="SECONDS",
        help="make segments of this width of actions that start where they end; by default they do not count",
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _let_the_first_process_speak()
        _, _, unknown = message.partition("unrecognized arguments: ")
        super().error(message + "".join(self._hint(option) for option in unknown.split()[:1]))

    def _hint(self, unknown: str) -> str:
        """What an option that there is not may have been meant for."""
        name, known = unknown.partition("=")[0], list(self._option_string_actions)
        if near := difflib.get_close_matches(name, known, 1):
            return f"; did you mean {near[0]}?"
        if unknown.startswith("--") and any(action.dest == "overrides" for action in self._actions):
            return "; fields of the recipe are given without dashes, as section.field=value"
        return ""


def _let_the_first_process_speak() -> None:
    """Waits where other processes of a distributed run on this machine will have met the same error.

    Once the first has ended, the launcher ends the others: the error is said once.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(SECONDS_TO_SPEAK)
