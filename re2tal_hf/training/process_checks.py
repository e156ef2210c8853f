"""Whether the processes of a run were told the same, and whether there is work for each of them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from accelerate.utils import gather_object

from .processes import Processes
from .run_folder import RunFolder, differences


def check_processes(processes: Processes, told: Mapping[str, Any]) -> None:
    """Compares what all processes were told and what data they see; to be called on all.

    Args:
        processes: Of the run.
        told: To this one, by name.

    Raises:
        ValueError: if one was started otherwise.
    """
    for process, others in enumerate(gather_object([told])):
        if different := differences(others, told):
            raise ValueError(
                f"Process {process} was started otherwise than process {processes.process_index}: "
                f"{'; '.join(different)}. Give all of them the same command and the same data."
            )


def check_place(processes: Processes, folder: RunFolder) -> None:
    """Checks that a run that was saved is where the first process looks for it; to be called on all.

    Raises:
        ValueError: if another machine holds it, which was that of the first process before a restart.
    """
    hosts = gather_object([platform.node() if folder.has_checkpoint else None])
    holding = {f"process {process} ({host})" for process, host in enumerate(hosts) if host is not None}
    if holding and hosts[0] is None:
        raise ValueError(
            f"{folder.path} holds a run where {' and '.join(sorted(holding))} is, and none where process 0 is, which "
            "alone reads it: put it in a folder that the machines share, copy it to that of process 0, or let the one "
            "that holds it be the first (torchrun --node-rank 0)."
        )


def check_share(processes: Processes, num_windows: int, batch_size: int) -> None:
    """Checks that each process gets a batch.

    Raises:
        ValueError: if not.
    """
    count = processes.num_processes
    if count > 1 and num_windows < batch_size * count:
        raise ValueError(
            f"An epoch has {num_windows} windows, and a step takes training.batch_size={batch_size} of them "
            f"on each of {count} processes: lower the batch size, raise data.windows_per_video, or start "
            "fewer processes."
        )
