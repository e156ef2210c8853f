"""Times what large data sets cost before any network runs: decoding for each core, and the start with many videos.

python scripts/time_data.py decode videos                 # real files; without a folder, generated ones
python scripts/time_data.py start --videos 20000 --processes 2

`decode` gives CPU seconds of one thread, with PyAV, of random windows. `start` makes videos that are never opened,
since their timelines, of three minutes at 30 frames a second, stand in the index; it times what each process of a
training does with them before its first step, as files and as shards.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from re2tal_hf.data import read_annotations, synthetic
from re2tal_hf.data.annotations import AnnotatedVideo
from re2tal_hf.data.frame_store import FrameStore
from re2tal_hf.data.timeline_index import Entry, TimelineIndex
from re2tal_hf.data.video_files import find_videos
from re2tal_hf.data.windows import TrainingWindows
from re2tal_hf.video_processing_re2tal import Re2TALVideoProcessor
from re2tal_hf.video_reader import VideoReader
from re2tal_hf.video_shard import locate

# (height, width), frames per second: what `re2tal prepare` leaves, and twice as many frames.
GENERATED = [((256, 340), 15.0), ((256, 340), 30.0)]
ACTIONS, SECONDS, FRAME_RATE = 10, 180.0, 30.0
PER_SHARD = 100
DURATIONS = (18.0, 19.0)


def decode(arguments: argparse.Namespace, scratch: Path) -> None:
    torch.set_num_threads(1)
    folders = [arguments.folder] if arguments.folder else []
    if not folders:
        for size, rate in GENERATED:
            folders.append(scratch / f"generated, {size[1]}x{size[0]}, {rate:g} frames a second")
            synthetic.generate(
                folders[-1],
                num_training=1,
                num_validation=0,
                num_test=0,
                size=size,
                frame_rate=rate,
                durations=DURATIONS,
            )
    processor = Re2TALVideoProcessor(
        num_frames=arguments.frames, frame_rate=arguments.rate, size={"height": arguments.size, "width": arguments.size}
    )
    store = FrameStore(processor, timelines=TimelineIndex(scratch / "index"), backend="pyav")
    for folder in folders:
        paths = [path for found in find_videos(folder).values() for path in found]
        random = np.random.default_rng(0)
        seconds = cpu = stored = total = 0.0
        for number in range(arguments.windows):
            path = paths[number % len(paths)]
            duration = store.timelines.duration(path)
            video = AnnotatedVideo(path.stem, "", path, duration, np.empty((0, 2)), [])
            whole = store.whole(video).times
            length = min(arguments.frames, len(whole))
            first = int(random.integers(0, len(whole) - length + 1))
            start = time.process_time()
            store.at(video, whole[first : first + length])
            cpu += time.process_time() - start
            seconds += length / arguments.rate
        for path in paths:
            with VideoReader(path, backend="pyav") as reader:
                location = locate(path)
                assert location is not None
                stored, total = stored + location.size, total + reader.duration
                shape = f"{reader.width}x{reader.height}, {reader.frame_rate:.0f} frames a second"
        print(
            f"{folder.name} (last: {shape}): {len(paths)} videos, {8 * stored / total / 1e6:.2f} Mbit/s;"
            f" a core decodes {seconds / cpu:.1f} seconds of video a second", flush=True
        )  # fmt: skip


def make_many(count: int, scratch: Path) -> Path:
    """Files and shards of so many videos, their annotations and an index that knows them."""
    black = (np.zeros((32, 32, 3), np.uint8) for _ in range(round(SECONDS * FRAME_RATE)))
    synthetic.write_video(scratch / "one.mp4", black, frame_rate=FRAME_RATE, size=(32, 32))
    index = TimelineIndex(scratch / "one")
    index.duration(scratch / "one.mp4")
    [known] = index.take_new().values()
    for folder in ("files", "shards"):
        (scratch / folder).mkdir()
    actions = [{"segment": [9.0 * number, 9.0 * number + 5], "label": "run"} for number in range(ACTIONS)]
    names = [f"video{number:06d}.mp4" for number in range(count)]
    entry = {"subset": "training", "annotations": actions}
    text = json.dumps({"database": {Path(name).stem: entry for name in names}})
    (scratch / "annotations.json").write_text(text, encoding="utf-8")
    for name in names:
        (scratch / "files" / name).write_bytes(bytes(512))
    for first in range(0, count, PER_SHARD):
        with tarfile.open(scratch / "shards" / f"{first // PER_SHARD:05d}.tar", "w", encoding="utf-8") as shard:
            for name in names[first : first + PER_SHARD]:
                header = tarfile.TarInfo(name)
                header.size = 512
                shard.addfile(header, io.BytesIO(bytes(512)))
    index = TimelineIndex(scratch / "index")
    for folder in ("files", "shards"):
        for [path] in find_videos(scratch / folder).values():
            location = locate(path)
            assert location is not None
            entry_of = Entry(location.size, location.changed, known.duration, known.remarks, known.timeline)
            index.add({os.path.abspath(path): entry_of})
    index.save()
    kept = sum(path.stat().st_size for path in (scratch / "index").iterdir())
    print(f"index: {kept / 2 / count:.0f} bytes a video of {SECONDS:.0f} s", flush=True)
    return scratch


def start_once(scratch: Path, kind: str, wait: object) -> tuple[float, float]:
    """Seconds until one process has its training windows, and CPU seconds of it."""
    torch.set_num_threads(1)
    wait.wait()  # type: ignore[attr-defined]
    begun, cpu = time.perf_counter(), time.process_time()
    found = read_annotations(scratch / "annotations.json", subset="training", video_folder=scratch / kind)
    index = TimelineIndex(scratch / "index", writes=False)
    processor = Re2TALVideoProcessor(num_frames=256, frame_rate=15, size={"height": 224, "width": 224})
    windows = TrainingWindows(found.videos, processor, timelines=index)
    assert len(windows.videos) == len(found.videos)
    return time.perf_counter() - begun, time.process_time() - cpu


def _started(scratch: Path, kind: str, wait: object, answers: object) -> None:
    answers.put(start_once(scratch, kind, wait))  # type: ignore[attr-defined]


def start(arguments: argparse.Namespace, scratch: Path) -> None:
    make_many(arguments.videos, scratch)
    context = multiprocessing.get_context("spawn")
    for kind in ("files", "shards"):
        for processes in sorted({1, arguments.processes}):
            barrier, answers = context.Barrier(processes), context.Queue()
            jobs = [context.Process(target=_started, args=(scratch, kind, barrier, answers)) for _ in range(processes)]
            for job in jobs:
                job.start()
            found = [answers.get() for _ in jobs]
            for job in jobs:
                job.join()
            text = ", ".join(f"{cpu:.1f} CPU seconds in {total:.1f} s" for total, cpu in found)
            print(f"{arguments.videos} videos, {kind}, {processes} processes at once: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    decoding = parts.add_parser("decode")
    decoding.add_argument("folder", nargs="?", type=Path)
    decoding.add_argument("--frames", type=int, default=256, help="of a window; default %(default)s")
    decoding.add_argument("--rate", type=float, default=15.0, help="frames a second; default %(default)s")
    decoding.add_argument("--size", type=int, default=224, help="pixels; default %(default)s")
    decoding.add_argument("--windows", type=int, default=12)
    decoding.set_defaults(run=decode)
    starting = parts.add_parser("start")
    starting.add_argument("--videos", type=int, default=20000)
    starting.add_argument("--processes", type=int, default=2)
    starting.set_defaults(run=start)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    try:
        arguments.run(arguments, scratch)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
