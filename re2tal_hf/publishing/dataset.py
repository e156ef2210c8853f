"""A dataset in the form of the Hub, made of an annotation file and a folder of videos."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from huggingface_hub import HfApi

from ..data.annotation_set import IN_FILE, RULES, AnnotatedVideo, AnnotationError, PointOf, RuleLog, repair_video
from ..data.annotations import read_annotations
from ..data.durations import known_durations, with_duration
from ..data.file_names import distinct_names, safe_name
from ..data.hub_annotations import METADATA_FILES
from ..data.time_units import MAX_LOST, check_times
from ..data.whole_files import naming
from ..video_reader import VideoReadError
from ..video_shard import names_in_shards, open_member
from .dataset_card import SUFFIXES, HubDataset, dataset_card, dataset_features
from .listed_files import listed_files
from .places import without_places
from .shards import names_in_shards_of, write_shards
from .upload import Target, publish

# By subset name in lower case; any other subset keeps its name.
SPLITS = {
    "": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "testing": "test",
}
# The Hub refuses a folder with more entries than ten thousand.
FILES_PER_FOLDER = 5000


def read_dataset(
    annotations: str | Path,
    videos: str | Path | None,
    *,
    subsets: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    max_lost: float = MAX_LOST,
    point_width: float | None = None,
    points: PointOf | None = None,
) -> HubDataset:
    """Reads annotations, opens every video and measures it; writes nothing.

    Videos without a file and unreadable ones are left out.

    Args:
        annotations: As `read_annotations` takes them.
        videos: Folder of the videos; `None` where the annotations name the files.
        subsets: Names of the subsets to take; default all.
        label_names: The classes in order; default those of the annotations.
        max_lost: Largest share of segments outside their video or that end before they start; see `check_times`.
        point_width: Makes segments of actions that start where they end; see `read_annotations`.
        points: Makes points in time of all actions; see `read_annotations`.

    Raises:
        AnnotationError: As `read_annotations` does, and for names that the Hub's form has no place for.
        FileNotFoundError: No such annotation file or video folder.
    """
    chosen: Sequence[str | None] = subsets or [None]
    found = [
        read_annotations(
            annotations,
            subset=subset,
            video_folder=videos,
            label_names=label_names,
            repair=False,
            point_width=point_width,
            points=points,
        )
        for subset in chosen
    ]
    annotated = [video for part in found for video in part.videos]
    missing, rules, unreadable = RuleLog(), RuleLog(), []
    for video in annotated:
        if video.path is None:
            missing.add("missing_file", video.video_id)
    present = [video for video in annotated if video.path is not None]
    splits: dict[str, list[AnnotatedVideo]] = {}
    for video, duration in zip(present, known_durations(present), strict=True):
        if isinstance(duration, VideoReadError):
            unreadable.append(f"{video.video_id}: {duration}")
            continue
        measured = with_duration(video, duration, rules)
        repair_video(measured, rules)
        splits.setdefault(_split(video.subset), []).append(measured)
    check_times([video for part in splits.values() for video in part], annotations, max_lost)
    if not splits:
        raise AnnotationError(f"{annotations}: none of its {len(annotated)} videos can be read; check {videos}")
    for split_videos in splits.values():
        _file_names(split_videos)  # raises here, before anything is written
    order = {"train": 0, "validation": 1, "test": 2}
    ordered = {name: splits[name] for name in sorted(splits, key=lambda name: (order.get(name, 3), name))}
    problems = missing.lines() + rules.lines(repaired=False)
    for rule in IN_FILE:
        if count := sum(part.counts.get(rule, 0) for part in found):
            problems.append(f"{rule}: {count} {', '.join(RULES[rule])}")
    if unreadable:
        problems.append(f"unreadable_video: {len(unreadable)} videos that cannot be read, dropped")
    return HubDataset(ordered, found[0].label_names, problems, unreadable)


def write_dataset(
    dataset: HubDataset,
    folder: str | Path,
    *,
    name: str,
    repo_id: str | None = None,
    license: str | None = None,
    max_shard_size: int | None = None,
) -> Path:
    """Writes videos (hard links where the disk allows it, else copies), metadata and card.

    Args:
        dataset: What to write.
        folder: A new folder; it appears once it is complete.
        name: Title of the card.
        repo_id: "user/name" for the examples of the card.
        license: Identifier of the licence of videos and annotations; left out of the card where not given.
        max_shard_size: Puts the videos into tar shards of up to so many bytes, see `shards`; default files.

    Returns:
        The folder.

    Raises:
        FileExistsError: The folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another output folder or remove it")
    dataset = replace(dataset, label_names=without_places(dataset.label_names))
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for split, videos in dataset.splits.items():
            paths = [video.local_path() for video in videos]
            rows = [_row(video, dataset.label_names) for video in videos]
            if max_shard_size is None:
                names = _file_names(videos)
                for path, file_name in zip(paths, names, strict=True):
                    with naming(folder):
                        _place(path, partial / split / file_name)
            else:
                rows = [{**row, "subset": split} for row in rows]
                names = names_in_shards_of(split, _names_in_shard(videos), paths, max_shard_size)
                write_shards(partial / split, names, paths, rows)
            rows = [{"file_name": file_name, **row} for file_name, row in zip(names, rows, strict=True)]
            with naming(folder):
                _write_metadata(rows, partial / split / dataset.metadata_file)
        sharded = max_shard_size is not None
        card = dataset_card(dataset, name, repo_id=repo_id, license=license, sharded=sharded)
        with naming(folder):
            (partial / "README.md").write_text(card, encoding="utf-8")
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def upload_dataset(folder: str | Path, target: Target, api: HfApi | None = None) -> str:
    """Uploads a folder that `write_dataset` made; contents that the Hub has already are not sent again.

    Sent are the card, the metadata and the videos that these name; anything else in the folder stays here.
    The dataset's splits become those of the folder: files that are in them on the Hub only are removed.

    Args:
        folder: The dataset.
        target: Where to.
        api: The Hub and the account; those of the environment by default.

    Returns:
        Address of the dataset.

    Raises:
        FileNotFoundError: There is no such dataset folder, or a video that its metadata names is missing or a link.
        UploadError: As `publish` does.
    """
    folder = Path(folder)
    tables = [table for kind in METADATA_FILES for table in sorted(folder.glob(f"*/{kind}"))]
    if not tables or not (folder / "README.md").is_file():
        raise FileNotFoundError(f"{folder} is not a dataset folder: it has no README.md and <split>/metadata.jsonl")
    files = ["README.md"]
    for table in tables:
        named = [next((shard for shard, _ in names_in_shards(name)), name) for name in _named_files(table)]
        files += [f"{table.parent.name}/{name}" for name in (table.name, *dict.fromkeys(named))]
    if missing := sorted(set(files) - set(listed_files(folder, files))):
        raise FileNotFoundError(f"{folder / missing[0]} is missing, or is a link: put the file itself in its place")
    splits = tuple(f"{table.parent.name}/" for table in tables)
    return publish(folder, target, "Upload videos and annotations", api, files=files, replaced=splits)


def _named_files(table: Path) -> list[str]:
    """The videos of a split, as its metadata names them."""
    if table.suffix == ".parquet":
        return pyarrow.parquet.read_table(table, columns=["file_name"])["file_name"].to_pylist()
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)["file_name"]) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{table} is damaged ({error!r}): make the dataset anew") from error


def _split(subset: str) -> str:
    split = SPLITS.get(subset.lower(), subset.lower())
    if not re.fullmatch(r"\w+(\.\w+)*", split) or safe_name(split) != split:
        raise AnnotationError(
            f"subset {subset!r} cannot name a split: use a short word of letters, digits and underscores"
        )
    return split


def _file_names(videos: Sequence[AnnotatedVideo]) -> list[str]:
    """Names of the files of a split, relative to its folder."""
    names = []
    for number, name in enumerate(_distinct(videos, [video.local_path().stem for video in videos])):
        subfolder = f"{number // FILES_PER_FOLDER:03d}/" if len(videos) > FILES_PER_FOLDER else ""
        names.append(f"{subfolder}{name}")
    return names


def _names_in_shard(videos: Sequence[AnnotatedVideo]) -> list[str]:
    """Names without other dots than that of the ending: in WebDataset the first one ends the name of an example."""
    return _distinct(videos, [video.local_path().stem.replace(".", "_") for video in videos])


def _distinct(videos: Sequence[AnnotatedVideo], stems: Sequence[str]) -> list[str]:
    names = []
    for path, name in zip((video.local_path() for video in videos), distinct_names(stems), strict=True):
        if path.suffix.lower() not in SUFFIXES:
            raise AnnotationError(
                f"{path}: datasets does not take {path.suffix} for a video; put it into another container without"
                f" encoding it anew: ffmpeg -i {path.name} -c copy {path.stem}.mkv"
            )
        names.append(f"{name}{SUFFIXES[path.suffix.lower()]}")
    return names


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if member := open_member(source):
        with member, target.open("wb") as file:
            shutil.copyfileobj(member, file)
        return
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _row(video: AnnotatedVideo, label_names: Sequence[str]) -> dict[str, Any]:
    # Times are floats, also whole seconds: the library takes the types of the columns from the first rows.
    annotations = [
        {"segment": [float(start), float(end)], "label": label_names[label]}
        for (start, end), label in zip(video.segments.tolist(), video.labels, strict=True)
    ]
    return {
        "video_id": without_places(video.video_id),
        "duration": video.duration,
        "annotations": annotations,
    }


def _write_metadata(rows: list[dict[str, Any]], path: Path) -> None:
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        return
    features = dataset_features(None)
    del features["video"]
    features["file_name"] = datasets.Value("string")
    if "subset" in rows[0]:
        features["subset"] = datasets.Value("string")
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)
