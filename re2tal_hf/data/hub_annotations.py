"""Annotations in the form of the Hub: videos with a table of metadata, in a folder or on the Hub itself."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import yaml
from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS, sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData, HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..value_checks import shown
from ..video_shard import SHARD_EXTENSION, names_in_shards
from .annotation_set import AnnotationError
from .hub_video import HubVideo
from .json_files import NOT_JSON, parse_json, read_text, reason_of
from .video_files import files_under, find_file, same_name

logger = logging.getLogger(__name__)

METADATA_FILES = ("metadata.jsonl", "metadata.parquet")
CSV = "metadata.csv"
_FORM = '{"file_name": ..., "annotations": [{"segment": [start, end], "label": ...}]}'

# What the library raises of a card or of tables that are not as it wants them; it checks few of their types.
_OF_DATASETS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, HTTPError),
    datasets.exceptions.DatasetsError,
)

Row = dict[str, Any]
"""A row of the metadata, and: `source`, what error messages call the table; `subset`, by default the split; `path`, a
`Path`, a `HubVideo` or, where there is no such file, `None`; in a folder also `folders`, in which the video lies."""


def read_hub_rows(source: str | Path) -> tuple[list[Row], list[str] | None]:
    """Reads the metadata of every split; no video is opened or fetched.

    In a folder without a card that says otherwise, a row without a `subset` belongs to the split that the folders
    of its table, else those of its video, name as in `datasets` ("train", "dev", "test-videos", ...; names of files
    do not count). Where no folder names a split, all is "train"; beside such folders, another is a subset of its name.

    Args:
        source: A folder, or a dataset on the Hub: "user/name" or "user/name@revision".

    Returns:
        The rows, and the names of the classes where the dataset's card declares them.

    Raises:
        AnnotationError: No such dataset or revision, no right to read it, no metadata, or metadata
            that cannot be read.
    """
    if not Path(source).is_dir():
        return _read_dataset(str(source))
    folder = Path(source)
    files = list(files_under(folder))
    tables = [path for path in files if path.name in METADATA_FILES]
    _check_tables(files, str(folder))
    if not tables:
        raise AnnotationError(f"{folder}: no metadata.jsonl in it; it needs one, with a line per video: {_FORM}")
    card = folder / "README.md"
    said = _card(card) if card.is_file() else DatasetCardData()
    sharded = any(path.suffix == SHARD_EXTENSION for path in files)
    if said.get("configs") and not sharded:
        for table in tables:
            _check_rows(table)
        splits = _load_as_said(folder, said)
        return list(_rows(splits, str(folder), _local_file)), _declared_names(splits)
    rows = [row for table in tables for row in _table_rows(table, table.relative_to(folder).parts[:-1])]
    _place(rows)
    return rows, _names_in_card(said, str(card)) if sharded else None


def _check_tables(files: Sequence[PurePath], source: str) -> None:
    """Refuses two tables for the same videos, and one alone that is not read."""
    by_folder: dict[PurePath, list[str]] = {}
    for file in files:
        if file.name in (*METADATA_FILES, CSV):
            by_folder.setdefault(file.parent, []).append(file.name)
    if by_folder and all(names == [CSV] for names in by_folder.values()):
        raise AnnotationError(
            f"{min(by_folder) / CSV}: this is a CSV table, which is not read; write metadata.jsonl with lines {_FORM}"
        )
    for folder, names in by_folder.items():
        if len(names) > 1:
            raise AnnotationError(f"{source}: {' and '.join(names)} are both in {folder}; keep one of them")


def _card(path: Path) -> Any:
    try:
        return DatasetCard.load(path, ignore_metadata_errors=True).data
    except (ValueError, yaml.YAMLError) as error:
        raise AnnotationError(f"{path}: its metadata cannot be read ({reason_of(error)})") from error


def _load_as_said(folder: Path, card: Any) -> dict[str, datasets.IterableDataset]:
    """The splits of a folder with a card that names their files."""
    if not glob.has_magic(str(folder.resolve())):
        return _load(str(folder), str(folder))
    # datasets would take a bracket in the path of the folder for a pattern.
    try:
        configs = MetadataConfigs.from_dataset_card_data(card)
        name = configs.get_default_config_name() or next(iter(configs))
        place = glob.escape(str(folder.resolve()))
        patterns = sanitize_patterns(configs[name].get("data_files", "**"))
        infos = datasets.info.DatasetInfosDict.from_dataset_card_data(card)
    except _OF_DATASETS as error:
        raise AnnotationError(f"{folder}: its README.md cannot be read as a card ({reason_of(error)})") from error
    files = {str(split): [os.path.join(place, file) for file in names] for split, names in patterns.items()}
    features = infos[name].features if name in infos else None
    return _load("videofolder", str(folder), data_files=files, features=features)


def _table_rows(
    table: Path, place: tuple[str, ...], find: Callable[[Path], Path | HubVideo | None] = find_file
) -> Iterator[Row]:
    """The rows of a table that lies in the folders `place`.

    Read here and not by `datasets`, which would also split the videos by words in their names ("test_3.mp4"), would
    refuse tables of which one has whole seconds only, and takes brackets in a name for a pattern.
    """
    for number, row in enumerate(_read_table(table), 1):
        where = f"{table}: row {number}"
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not name.strip():
            raise AnnotationError(f'{where} has no "file_name"; it needs {_FORM}')
        path = Path(os.path.normpath(table.parent / name))
        folders = (*place, *Path(os.path.relpath(path, table.parent)).parts[:-1])
        file = find(path)
        if file is None and next(names_in_shards(name), None):
            raise AnnotationError(f"{where}: there is no {path}: the shard is not there, or holds no such member")
        yield {
            **row,
            "path": file,
            "video": {"path": str(path)},
            "video_id": path.stem if row.get("video_id") is None else row["video_id"],
            "source": where,
            "folders": folders,
            # As in datasets, the place of the table comes before that of the video.
            "splits": _splits(place) or _splits(folders),
        }


def _check_rows(table: Path) -> None:
    """Refuses a table that `datasets` must not see: of a row that is null the parser ends the process."""
    for number, row in enumerate(_read_table(table), 1):
        if not isinstance(row, dict):
            raise AnnotationError(f"{table}: row {number} is {shown(row)}; each must be of the form {_FORM}")


def _read_table(table: Path) -> Iterator[Any]:
    if table.suffix == ".parquet":
        try:
            yield from pyarrow.parquet.read_table(table).to_pylist()
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise AnnotationError(f"{table}: not a Parquet table ({reason_of(error)}); make it anew") from error
        return
    for number, line in enumerate(read_text(table).split("\n"), 1):
        if line.strip():
            try:
                yield parse_json(line, f"{table}: line {number}")
            except AnnotationError:
                raise
            except NOT_JSON as error:
                raise AnnotationError(
                    f"{table}: line {number} is not JSON ({reason_of(error)}); each line is of the form {_FORM}"
                ) from error


def _place(rows: list[Row]) -> None:
    """Gives rows without a `subset` the split that their folders name."""
    unnamed = not any(row["splits"] for row in rows)
    for row in rows:
        splits = row.pop("splits")
        if row.get("subset"):
            continue
        if len(splits) > 1:
            raise AnnotationError(
                f"{row['source']}: {row['video']['path']} lies in folders of several splits, {' and '.join(splits)};"
                ' rename one, or give the video a "subset"'
            )
        row["subset"] = splits[0] if splits else "train" if unnamed else next(iter(row["folders"]), "")
    if astray := [row["video"]["path"] for row in rows if not row["subset"]]:
        logger.warning(
            "%d videos lie beside the folders of the splits and are in no subset; first: %s", len(astray), astray[0]
        )


def _splits(folders: Sequence[str]) -> list[str]:
    """Splits that names of folders stand for, by the words that datasets knows, in any case."""
    return [
        str(split)
        for split, words in SPLIT_KEYWORDS.items()
        if any(
            re.fullmatch(rf"(.*[{NON_WORDS_CHARS}])?{word}([{NON_WORDS_CHARS}].*)?", folder, re.IGNORECASE)
            for word in words
            for folder in folders
        )
    ]


def _read_dataset(source: str) -> tuple[list[Row], list[str] | None]:
    name, _, revision = source.partition("@")
    info = _dataset_info(name, revision or None)
    files = {same_name(file.rfilename): file.rfilename for file in info.siblings or []}
    _check_tables([PurePosixPath(file) for file in files], source)
    if not any(file.rpartition("/")[2] in METADATA_FILES for file in files):
        raise AnnotationError(
            f"{source}: the dataset has no metadata.jsonl; it needs one in each split, with a line per video: {_FORM}"
            " (re2tal make_dataset writes it)"
        )
    if any(file.endswith(SHARD_EXTENSION) for file in files.values()):
        return _read_shards(name, str(info.sha), files)
    for file in files.values():
        if PurePosixPath(file).name in METADATA_FILES:
            _check_rows(Path(hf_hub_download(name, file, repo_type="dataset", revision=info.sha)))
    splits = _load(name, source, revision=info.sha)

    def file_on_hub(url: str) -> HubVideo | None:
        video = HubVideo.from_url(url)
        filename = files.get(same_name(video.filename))
        return replace(video, filename=filename) if filename is not None else None

    return list(_rows(splits, source, file_on_hub)), _declared_names(splits)


def _read_shards(name: str, commit: str, files: dict[str, str]) -> tuple[list[Row], list[str] | None]:
    """Rows and classes of a dataset on the Hub whose videos lie in shards; no shard is fetched."""

    def fetched(file: str) -> Path:
        return Path(hf_hub_download(name, file, repo_type="dataset", revision=commit))

    rows: list[Row] = []
    for file in files.values():
        place = PurePosixPath(file).parts
        if place[-1] not in METADATA_FILES:
            continue
        table = fetched(file)
        root = table.parents[len(place) - 1]

        def on_hub(path: Path, root: Path = root) -> HubVideo | None:
            filename = Path(os.path.relpath(path, root)).as_posix()
            shard = next((shard for shard, _ in names_in_shards(filename)), filename)
            return HubVideo(name, commit, filename) if same_name(shard) in files else None

        rows += _table_rows(table, place[:-1], on_hub)
    _place(rows)
    card = files.get("README.md")
    return rows, _names_in_card(_card(fetched(card)), card) if card else None


def _dataset_info(name: str, revision: str | None) -> Any:
    try:
        return HfApi().dataset_info(name, revision=revision)
    except RevisionNotFoundError as error:
        raise AnnotationError(
            f"{name}: the dataset has no revision {revision!r}; give a branch, tag or commit"
        ) from error
    except GatedRepoError as error:
        raise AnnotationError(f"{name}: the dataset is gated; ask for access on its page on the Hub") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise AnnotationError(
            f"{name}: neither a file or folder here nor a dataset on the Hub that this account may read;"
            " check the name and, if it is private, log in with `hf auth login` or set HF_TOKEN"
        ) from error
    except (HTTPError, OSError) as error:
        raise AnnotationError(
            f"{name}: not a file or folder here, and the Hub cannot be asked for it ({error}); without a"
            f" connection, give the folder that `hf download --repo-type dataset {name} --local-dir FOLDER` made"
        ) from error


def _load(path: str, source: str, **settings: Any) -> dict[str, datasets.IterableDataset]:
    try:
        splits = datasets.load_dataset(path, streaming=True, **settings)
    except _OF_DATASETS as error:
        raise AnnotationError(f"{source}: cannot be read ({reason_of(error)}); see its README.md") from error
    # Not cast_column, which opens every video first.
    return {split: rows.decode(False) for split, rows in splits.items()}


def _rows(
    splits: dict[str, datasets.IterableDataset], source: str, find: Callable[[str], Path | HubVideo | None]
) -> Iterator[Row]:
    names = _declared_names(splits)
    for split, rows in splits.items():
        where = f"{source}: split {split!r}" if split else source
        try:
            for row in rows:
                if not row.get("video"):
                    raise AnnotationError(f'{where}: a row has no "file_name"; it needs {_FORM}')
                row["path"] = find(row["video"]["path"])
                row["video_id"] = row.get("video_id") or Path(row["video"]["path"]).stem
                row["subset"] = row.get("subset") or split
                if names is not None:
                    _name_labels(row, names)
                yield {**row, "source": source}
        except AnnotationError:
            raise
        except _OF_DATASETS as error:
            raise AnnotationError(
                f"{where}: cannot be read ({reason_of(error)}); see its tables and README.md"
            ) from error


def _name_labels(row: Row, names: list[str]) -> None:
    for action in row.get("annotations") or []:
        class_id = action["label"]
        # The library writes -1 for a class that nobody knows.
        action["label"] = None if class_id is None or class_id < 0 else names[class_id]


def _declared_names(splits: dict[str, datasets.IterableDataset]) -> list[str] | None:
    for rows in splits.values():
        action = getattr((rows.features or {}).get("annotations"), "feature", None)
        label = action.get("label") if isinstance(action, dict) else None
        if isinstance(label, datasets.ClassLabel):
            return label.names
    return None


def _names_in_card(card: Any, path: str) -> list[str] | None:
    """The classes that the card of a dataset in shards declares."""
    try:
        for info in datasets.info.DatasetInfosDict.from_dataset_card_data(card).values():
            actions = (info.features or {}).get("json", {}).get("annotations")
            if isinstance(label := getattr(actions, "feature", {}).get("label"), datasets.ClassLabel):
                return label.names
    except _OF_DATASETS as error:
        raise AnnotationError(f"{path}: it cannot be read as a card ({reason_of(error)})") from error
    return None


def _local_file(path: str) -> Path | None:
    return find_file(Path(path))
