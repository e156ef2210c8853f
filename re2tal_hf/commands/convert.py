"""Makes a checkpoint of another project a model of ours, with a report of what became of every tensor; and back.

re2tal convert epoch_119.pth --from opentad --options e2e_thumos_re2tal_actionformer_swin_tiny.py --output thumos
re2tal convert invswin-tiny_k400.pth --from opentad --output k400     # a backbone, for training.pretrained_backbone
re2tal convert Swin3D_T_Weights.KINETICS400_V1 --from library --output swin     # torchvision, transformers or timm
re2tal convert runs/mine --to opentad --output mine.pth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import AutoConfig, AutoModel

from ..conversion.converted_model import check_new, convert
from ..conversion.kinds import KINDS
from ..conversion.library import convert_library
from ..conversion.opentad_export import save_for_opentad
from ..conversion.options_file import read_options
from ..conversion.settings import read_given
from ..conversion.source import read_source
from ..data.json_files import read_text
from ..data.whole_files import check_writable
from ..modeling_re2tal import Re2TALModel
from ..training.model_source import explained, find_model
from ._command import run_command

LIBRARY = "library"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="the checkpoint: .pth, .pt, .bin, .ckpt or .safetensors; of a library its name; with --to a model",
    )
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", choices=[*KINDS, LIBRARY], dest="kind", help="the project that it comes from")
    way.add_argument("--to", choices=["opentad"], help="the project whose checkpoint a model of ours becomes")
    parser.add_argument("--output", required=True, help="the folder to make; with --to the file")
    parser.add_argument(
        "--options",
        help="settings that the weights do not tell: the config of its training (.py, .yaml, .json), which is read and "
        "not executed",
    )
    parser.add_argument("--weights", help="which weights of the checkpoint, such as state_dict; averaged by default")
    parser.add_argument("--labels", help="a text file with the name of a class in each line, in their order")
    parser.add_argument("--license", help="of the weights, by the Hub's name of it, such as apache-2.0")
    parser.add_argument("settings", nargs="*", metavar="section.field=value", help="what no file tells")


def run(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if arguments.to:
        return _export(arguments.source, output)
    check_new(output)
    given = read_given(arguments.settings)
    if arguments.kind == LIBRARY:
        converted = convert_library(arguments.source, given, arguments.license)
    else:
        options = read_options(Path(arguments.options)) if arguments.options else None
        source = read_source(Path(arguments.source), arguments.weights, arguments.license)
        plan = KINDS[arguments.kind](source, options, given)
        if arguments.labels:
            plan.labels = [line for line in read_text(Path(arguments.labels)).splitlines() if line.strip()]
        converted = convert(plan)
    converted.save(output)
    print("\n".join([*converted.lines(), f"saved in {output}"]))
    return 0


def _export(source: str, output: Path) -> int:
    if output.is_dir():
        raise IsADirectoryError(f"--output {output} is a folder: name a file.")
    check_writable(output.parent)
    folder = find_model(source, "source")
    with explained(folder, "source"):
        alone = AutoConfig.from_pretrained(folder).architectures == [Re2TALModel.__name__]
        model_class = Re2TALModel if alone else AutoModel
        save_for_opentad(model_class.from_pretrained(folder, partial=False), output)
    print(f"saved in {output}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; see [`run_command`]."""
    return run_command(__doc__, add_options, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
