"""The card of a dataset: what the Hub's page shows, and what `load_dataset` goes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
import yaml
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from ..data.annotations import AnnotatedVideo
from .markdown import escape, plain

# What the library's videofolder takes for a video, and for other endings the ending of the same container.
SUFFIXES = {suffix: suffix for suffix in (".mp4", ".mkv", ".avi", ".mov", ".mpeg")}
SUFFIXES |= {".m4v": ".mp4", ".webm": ".mkv", ".mpg": ".mpeg"}
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}

_TEXT = """\
# {name}

Untrimmed videos with the actions in them: which, from when to when, in seconds.

| split | videos | actions | hours |
|---|---:|---:|---:|
{split_rows}

## Use

```python
from datasets import load_dataset

dataset = load_dataset("{repo_id}")                       # fetches every video
dataset = load_dataset("{repo_id}", streaming=True)       # fetches each video when it is read
rows = dataset["{split}"].decode(False)                   # streamed annotations, without the videos
```

Training and evaluation with `re2tal_hf`:

```bash
re2tal train --recipe RECIPE.yaml --output runs/first --dataset {repo_id} --streaming
re2tal evaluate --model runs/first/best --dataset {repo_id}
```

## Format

One row per video, in `<split>/{metadata}`:

{files}
- `video_id`: its name in the annotations,
- `duration`: seconds from the start of the video, as a player shows it, to the end of the last frame, measured,
- `annotations`: a list, empty where nothing happens, of `segment` (`[start, end]` in seconds) and `label` (a class).

## Classes

| class | {split_names} |
|---|{split_columns}|
{class_rows}

## Limits

{limits}
"""

_FILES = "- `video`: the file (`file_name` in the metadata),"
_SHARDS = """\
- `file_name`: the video, as a path below its shard; the videos lie in tar shards, the form of WebDataset, where the
  row stands beside each as its `json`, and where `load_dataset` has the columns of that form,"""


@dataclass
class HubDataset:
    """What a dataset will hold.

    Attributes:
        splits: Videos with measured durations, by split. Segments are those of the annotation file, also where
            they break one of `RULES`: a benchmark's ground truth stays as it is, and training repairs what it reads.
        label_names: Name of class 0, 1, ...
        problems: A line for each rule that was met and for the videos that are left out.
        unreadable: Why, for each video that cannot be read.
    """

    splits: dict[str, list[AnnotatedVideo]]
    label_names: list[str]
    problems: list[str]
    unreadable: list[str]

    @property
    def metadata_file(self) -> str:
        """Name of the metadata of each split.

        A JSON file without any action does not say what its lists hold. The library then refuses to put the splits
        together, and it takes one kind of file for all of them.
        """
        has_actions = [any(video.labels for video in videos) for videos in self.splits.values()]
        return "metadata.jsonl" if all(has_actions) else "metadata.parquet"


def dataset_features(label_names: Sequence[str] | None) -> datasets.Features:
    """Returns the columns; the label is a string where there are no names of classes."""
    label = datasets.Value("string") if label_names is None else datasets.ClassLabel(names=list(label_names))
    times = datasets.List(datasets.Value("float64"))
    return datasets.Features(
        {
            "video": datasets.Video(),
            "video_id": datasets.Value("string"),
            "duration": datasets.Value("float64"),
            "annotations": datasets.List({"segment": times, "label": label}),
        }
    )


def dataset_card(
    dataset: HubDataset, name: str, *, repo_id: str | None = None, license: str | None = None, sharded: bool = False
) -> str:
    """Returns the text of README.md.

    Args:
        dataset: What the card describes.
        name: Title.
        repo_id: "user/name" in the examples.
        license: Identifier of the licence, or `None` where nobody said.
        sharded: Whether the videos lie in tar shards.
    """
    splits, label_names = dataset.splits, dataset.label_names
    counts = {
        split: Counter(label_names[label] for video in videos for label in video.labels)
        for split, videos in splits.items()
    }
    text = _TEXT.format(
        name=escape(name),
        repo_id=repo_id or "user/name",
        split=next(iter(splits)),
        split_rows="\n".join(_split_row(split, videos) for split, videos in splits.items()),
        metadata=dataset.metadata_file,
        files=_SHARDS if sharded else _FILES,
        split_names=" | ".join(splits),
        split_columns="|".join("---:" for _ in splits),
        class_rows="\n".join(
            f"| {escape(label)} | {' | '.join(str(counts[split][label]) for split in splits)} |"
            for label in label_names
        ),
        limits=_limits(dataset.problems, license),
    )
    return f"---\n{_front_matter(dataset, name, license, sharded)}---\n\n{text}"


def _front_matter(dataset: HubDataset, name: str, license: str | None, sharded: bool) -> str:
    num_videos = sum(map(len, dataset.splits.values()))
    described = DatasetCardData()
    features = dataset_features(dataset.label_names)
    info = datasets.DatasetInfo(features=_shard_features(dataset, features) if sharded else features)
    DatasetInfosDict({"default": info}).to_dataset_card_data(described)
    config = {
        "config_name": "default",
        "data_files": [{"split": split, "path": f"{split}/{'*.tar' if sharded else '**'}"} for split in dataset.splits],
    }
    if not sharded:
        # Of a folder with metadata the library takes features from here only: those under dataset_info give way to
        # what it guesses from the metadata. Of shards it takes those.
        config["features"] = described["dataset_info"]["features"]
    content = {
        "pretty_name": plain(name),
        **({"license": plain(license)} if license else {}),
        "task_categories": ["video-classification"],
        "tags": ["temporal-action-localization", "video", "re2tal"],
        "size_categories": [next((size for limit, size in _SIZES.items() if num_videos < limit), "1M<n<10M")],
        "configs": [config],
        **({"dataset_info": described["dataset_info"]} if sharded else {}),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _shard_features(dataset: HubDataset, columns: datasets.Features) -> datasets.Features:
    """The columns as the library has them of WebDataset: the ending of a file names one."""
    known = {name: column for name, column in columns.items() if name != "video"}
    suffixes = sorted({SUFFIXES[v.local_path().suffix.lower()] for videos in dataset.splits.values() for v in videos})
    text = datasets.Value("string")
    videos = {suffix.removeprefix("."): datasets.Video() for suffix in suffixes}
    return datasets.Features({**videos, "json": {**known, "subset": text}, "__key__": text, "__url__": text})


def _split_row(split: str, videos: Sequence[AnnotatedVideo]) -> str:
    hours = sum(video.duration or 0.0 for video in videos) / 3600
    return f"| {split} | {len(videos)} | {sum(len(video.labels) for video in videos)} | {hours:.2f} |"


def _limits(problems: Sequence[str], license: str | None) -> str:
    lines = [
        "Segments are those of the source, compared with the durations of the videos only; labels were not checked."
    ]
    if problems:
        lines.append("Found when the dataset was made:")
    text = "\n\n".join(lines) + "".join(f"\n- {escape(problem)}" for problem in problems)
    return text if license else f"{text}\n\nNo licence was given when this card was made."
