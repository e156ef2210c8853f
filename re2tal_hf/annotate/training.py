"""A training that the page begins, on the videos that are finished by then: a process of its own, in the folder."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..data.annotation_files import write_annotations
from ..data.annotation_records import Record
from ..data.stratified_split import split_records
from ..training.recipe_yaml import read_yaml
from ..training.run_folder import LOG, RECIPE
from .project import Project

RUNS = "runs"
SUBSETS = {"training": 0.75, "validation": 0.25}
FEWEST = 4
# Of what the training prints, enough for its last line.
TAIL_BYTES = 4096


class Training:
    """Runs `re2tal train`, one at a time; run number 3 is in `runs/3/run` of the folder, its output beside it.

    Args:
        project: With the videos.
        recipe: A name or a file.
        trained: Is called with the folder of a run that has ended; what it raises is told as the outcome.
        words: More of the command.
    """

    def __init__(self, project: Project, recipe: str, trained: Callable[[Path], None], words: Sequence[str] = ()):
        self._project, self._recipe, self._trained, self._words = project, recipe, trained, words
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None
        self._folder = project.folder
        self._stopping = False
        self._outcome = ""

    @property
    def running(self) -> bool:
        """Whether a training runs, or its model is about to be loaded."""
        return self._watcher is not None and self._watcher.is_alive()

    def start(self) -> None:
        """Begins a training on the finished videos.

        Raises:
            ValueError: They are too few, or a training runs.
            OSError: The folder cannot be written to.
        """
        with self._lock:
            if self.running:
                raise ValueError("A training runs already.")
            project = self._project
            records = divided([project.record(number) for number in range(len(project.ids))])
            runs = project.folder.resolve() / RUNS
            runs.mkdir(exist_ok=True)
            last = max((int(path.name) for path in runs.iterdir() if path.name.isdecimal()), default=0)
            self._folder = runs / str(last + 1)
            self._folder.mkdir()
            annotations = self._folder / "annotations.json"
            write_annotations(annotations, records)
            words = ["--recipe", self._recipe, "--output", str(self._folder / "run"), *self._words]
            words += [f"data.annotations={json.dumps(str(annotations))}"]
            words += [f"data.videos={json.dumps(str(project.folder.resolve()))}"]
            with (self._folder / "output.txt").open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "re2tal_hf.commands.train", *words], stdout=output, stderr=subprocess.STDOUT
                )
            self._stopping, self._outcome = False, ""
            self._watcher = threading.Thread(target=self._watch, args=(self._process,), daemon=True)
            self._watcher.start()

    def stop(self) -> None:
        """Tells the training that runs, if any, to end after its step; it keeps what it has learned."""
        with self._lock:
            if self.running and self._process is not None:
                self._stopping = True
                self._process.terminate()

    def close(self) -> None:
        """Stops, and waits for the end."""
        self.stop()
        if self._watcher is not None:
            self._watcher.join()

    def status(self) -> str:
        """Returns how far the training is, or what came of the last one; nothing where there was none."""
        if not self.running:
            return self._outcome
        if self._stopping:
            return "The training ends after its step"
        run = self._folder / "run"
        try:
            epochs = read_yaml((run / RECIPE).read_text(encoding="utf-8"), str(run / RECIPE))["training"]["epochs"]
            log = [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return f"Training begins: {self._last_line()}"
        told = [f"epoch {len(log)} of {epochs}"]
        told += [f"loss {log[-1]['loss']:.3g}"] if log else []
        told += [f"mAP {entry['map']:.3g}" for entry in log if "map" in entry][-1:]
        return f"Training: {', '.join(told)}"

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        ended = process.wait()
        name = f"{RUNS}/{self._folder.name}"
        if self._stopping:
            self._outcome = f"The training was stopped; {name} keeps what it had learned"
        elif ended:
            self._outcome = f"The training failed, {name}/output.txt: {self._last_line()}"
        else:
            try:
                self._trained(self._folder / "run")
                self._outcome = f"Proposals are of the new model, {name}/run"
            except (OSError, ValueError) as error:
                self._outcome = f"The model of {name}/run does not load: {error}"

    def _last_line(self) -> str:
        """The last line that the training has printed; of a bar its last state."""
        with (self._folder / "output.txt").open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").replace("\r", "\n").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def divided(records: Sequence[Record]) -> list[Record]:
    """Returns the finished videos in the subsets that they have, or divided where these lack training or validation.

    Raises:
        ValueError: They are too few.
    """
    finished = [record for record in records if record.subset]
    if (count := sum(bool(record.labels) for record in finished)) < FEWEST:
        raise ValueError(
            f"{count} finished videos have actions: finish {FEWEST} or more, of which some are for validation."
        )
    if {record.subset for record in finished if record.labels} >= SUBSETS.keys():
        return finished
    subsets = split_records(finished, SUBSETS, [record.video_id for record in finished])
    return [replace(record, subset=subset) for record, subset in zip(finished, subsets, strict=True)]
