"""Wrong calls: pipeline, processor, models, metric, rewiring, reader and files of detections.

Of a right call some arguments are replaced, by values that fit no argument or by those of another shape, type or range.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import calls_of_files
import calls_of_models
import calls_of_pipeline
import numpy as np
from mutations import Case
from torch import Tensor
from wrong_arguments import JUNK

CALLS = {**calls_of_pipeline.CALLS, **calls_of_models.CALLS, **calls_of_files.CALLS}


def mutate(draw: random.Random, folder: Path) -> Case:
    """A call with one to three wrong arguments, one of which it may not even know."""
    name = draw.choice(sorted(CALLS))
    call = CALLS[name]
    arguments = call.right()
    known = sorted({*arguments, *call.others})
    changed = draw.sample(known, min(len(known), draw.choice([1, 1, 1, 1, 2, 3])))
    for argument in changed:
        own = call.others.get(argument, [])
        use_own = own and (draw.random() < 0.7 or argument in call.fixed)
        arguments[argument] = draw.choice(own if use_own else JUNK)()
    if draw.random() < 0.05:
        misspelt = draw.choice(known) + draw.choice(["s", "_", "e"])
        arguments[misspelt] = 1
        changed.append(misspelt)
    names = tuple(text for argument in changed for text in (argument, *call.names.get(argument, ())))
    text = ", ".join(f"{argument}={_short(arguments[argument])}" for argument in changed)
    return Case(
        f"{name}({text})", lambda: call.function(**arguments), names, lambda result: call.check(result, arguments)
    )


def _short(value: Any) -> str:
    shape = f" {tuple(value.shape)} {value.dtype}" if isinstance(value, (np.ndarray, Tensor)) else ""
    return f"{type(value).__name__}{shape} {str(value)[:60]!r}"
