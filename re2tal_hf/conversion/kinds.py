"""The kinds of checkpoints that can be converted, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .actionformer import plan_actionformer
from .converted_model import Plan
from .mmaction2 import plan_mmaction2
from .opentad import plan_opentad
from .options_file import Options
from .pyslowfast import plan_pyslowfast, plan_pytorchvideo
from .source import Source

KINDS: dict[str, Callable[[Source, Options | None, Mapping[str, Any]], Plan]] = {
    "opentad": plan_opentad,
    "actionformer": plan_actionformer,
    "mmaction2": plan_mmaction2,
    "pyslowfast": plan_pyslowfast,
    "pytorchvideo": plan_pytorchvideo,
}
"""What plans the conversion of a checkpoint, from an options file and settings that the user names."""
