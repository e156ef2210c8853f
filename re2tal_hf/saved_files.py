"""The files of a saved model, looked at before they are read: whether they are whole, and what their names say.

Weights are looked at by what their files say of themselves; no tensor is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from .loaded_weights import is_computed
from .value_checks import one_line, shown

WEIGHT_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What `save_pretrained` calls the weights, today and formerly; with `.index.json` where they lie in several files."""

SUFFIXES = tuple(Path(name).suffix for name in WEIGHT_NAMES)

JSON_NAMES = ("config.json", "video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")

# Of a number of each type of safetensors that weights have.
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4}
BYTES |= {"U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8, "C64": 8}
# What safetensors itself allows.
MAX_HEADER_BYTES = 100_000_000
MAX_JSON_BYTES = 2**26

AGAIN = "download it again, or save the model again."


class TensorEntry(NamedTuple):
    """What a safetensors file says of a tensor: its type, by safetensors' name, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        ValueError: if it does not, or has a key twice; names the file and says what it is instead.
        OSError: if it cannot be read.
    """
    content = path.read_bytes()
    _check_kind(path, content[:1024])
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"{path} has {len(content)} bytes; no configuration needs that many.")
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; save it as such, or {AGAIN}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deep; {AGAIN}") from error
    except ValueError as error:
        raise ValueError(f"{path} is broken JSON: {one_line(error)}. Correct it, or {AGAIN}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {named(value)} in place of an object, {{...}}; {AGAIN}")
    return value


def check_weights(folder: Path, variant: str | None = None, names: tuple[str, ...] = WEIGHT_NAMES) -> dict[str, bool]:
    """Checks the weights that `from_pretrained` would read from a folder.

    Args:
        folder: as `save_pretrained` writes it.
        variant: what stands before the suffix of the files.
        names: of the weights, the first that is there counts.

    Returns:
        Of each tensor by name whether its numbers are not whole ones; nothing if there are no weights.

    Raises:
        ValueError: if a file is damaged, is something else or is missing; names it and says what to do.
    """
    files = weight_files(folder, variant, names)
    return {name: kind for path in files for name, kind in check_weight_file(path).items()}


def weight_files(folder: Path, variant: str | None = None, names: tuple[str, ...] = WEIGHT_NAMES) -> list[Path]:
    """Returns the files of weights in a folder, with arguments as of `check_weights`; none if there are no weights.

    Raises:
        ValueError: if the index of several is broken or lies, or one is missing.
    """
    for name in names:
        stem, _, suffix = name.rpartition(".")
        name = f"{stem}.{variant}.{suffix}" if variant else name
        if (path := folder / name).is_file():
            return [path]
        if (index := folder / f"{stem}.{suffix}.index{f'.{variant}' if variant else ''}.json").is_file():
            return _files_of(index)
    return []


def check_weight_file(path: Path) -> dict[str, bool]:
    """Checks one file of weights, safetensors or a state dict that `torch.save` wrote.

    Returns:
        Of each tensor by name whether its numbers are not whole ones.

    Raises:
        ValueError: if the file is damaged or something else.
    """
    if path.suffix == ".safetensors":
        return {name: entry.dtype.startswith(("F", "BF", "C")) for name, entry in read_header(path).items()}
    loaded = load_torch_file(path, "meta")
    if not isinstance(loaded, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        what = "more than tensors" if isinstance(loaded, Mapping) else named(loaded)
        raise ValueError(f"{path} holds {what} and no state dict; save the state dict alone.")
    return {str(name): not is_computed(tensor) for name, tensor in loaded.items()}


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Reads what a safetensors file says of its tensors, by name.

    Raises:
        ValueError: if it does not agree with itself and with the size of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1024)
        _check_kind(path, start)
        if start[8:9] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
            raise ValueError(f"{path} was written by torch.save; name it .pth, or .bin, in place of .safetensors.")
        length = struct.unpack("<Q", start[:8])[0] if size >= 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES or start[8:9] not in (b"{", b""):
            raise ValueError(f"{path} is no safetensors file; {AGAIN}")
        if size < 8 + length:
            raise ValueError(f"{path} is cut: {size} bytes, and its header alone has {8 + length}; {AGAIN}")
        file.seek(8)
        text = file.read(length)
    try:
        header = json.loads(text)
        entries = {str(name): _entry(part) for name, part in header.items() if name != "__metadata__"}
        ranges = sorted(_range(part) for name, part in header.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} has a broken header; {AGAIN}") from error
    end = 0
    for first, last in ranges:
        if first != end:
            raise ValueError(f"{path} has a header that disagrees with itself: tensors overlap or leave gaps; {AGAIN}")
        end = last
    if size != 8 + length + end:
        kind = "is cut" if size < 8 + length + end else "is too long"
        raise ValueError(f"{path} {kind}: {size} bytes, and by its header it has {8 + length + end}; {AGAIN}")
    try:
        with safe_open(path, "pt"):
            return entries
    except SafetensorError as error:
        raise ValueError(f"{path} is not as safetensors has it ({one_line(error)[:100]}); {AGAIN}") from error


def load_torch_file(path: Path, device: str = "cpu") -> Any:
    """Loads what `torch.save` wrote, tensors and plain values only.

    Raises:
        ValueError: if the file is damaged, something else, or holds objects, which could run code as they are loaded.
    """
    with path.open("rb") as file:
        start = file.read(1024)
    _check_kind(path, start)
    zipped = start[:2] == b"PK"
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise ValueError(f"{path} is cut, or a damaged archive; {AGAIN}") from error
        if packed:
            raise ValueError(f"{path} is a packed archive, which torch.save never writes; unpack it first.")
    elif start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= MAX_HEADER_BYTES:
        raise ValueError(f"{path} is a safetensors file; name it .safetensors.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange pickles, before the error that says so
            return torch.load(path, map_location=device, weights_only=True, mmap=zipped and device == "meta")
    except Exception as error:  # what a damaged pickle raises is not to be foreseen
        if isinstance(error, MemoryError):
            raise ValueError(f"{path} asks for more memory than there is.") from error
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise ValueError(
                f"{path} holds objects ({found[1]}), which could run code as they are loaded, and is not loaded. Save "
                "the weights alone, torch.save(model.state_dict(), ...), or as safetensors."
            ) from error
        what = "is damaged" if zipped or start[:1] == b"\x80" else "is no file of torch.save"
        raise ValueError(f"{path} {what}; {AGAIN}") from error


@contextlib.contextmanager
def files_checked(source: Any, settings: Mapping[str, Any], check: Callable[[Path], object]) -> Iterator[None]:
    """Checks files before they are read: in a folder first of all, from the Hub where reading them fails.

    Args:
        source: a folder or a file, or a Hub id; anything else is left to who reads it.
        settings: of `from_pretrained`.
        check: takes the folder or file.

    Raises:
        ValueError: of `check`.
    """
    if isinstance(source, str | Path) and (path := Path(source, settings.get("subfolder") or "")).exists():
        check(path)
    try:
        yield
    except Exception:
        if (folder := cached_folder(source, settings)) is not None:
            check(folder)
        raise


def cached_folder(source: Any, settings: Mapping[str, Any]) -> Path | None:
    """Returns where on this machine a model from the Hub lies; None if it does not, or is from elsewhere."""
    if not isinstance(source, str) or Path(source).exists():
        return None
    known = {name: settings.get(name) for name in ("cache_dir", "revision")}
    subfolder = settings.get("subfolder") or ""
    try:
        found = try_to_load_from_cache(source, f"{subfolder}/config.json".lstrip("/"), **known)
    except ValueError:  # no id of a model
        return None
    return Path(found).parent if isinstance(found, str) else None


def check_json(path: Path, names: Iterable[str] = JSON_NAMES) -> None:
    """Checks files of settings, those of a folder that are there; see `read_json`."""
    for file in [path] if path.is_file() else [path / name for name in names]:
        if file.is_file():
            read_json(file)


def check_folder(folder: Path) -> None:
    """Checks configuration, video processor and weights in a folder, as far as they are there.

    Raises:
        ValueError: if one of them is damaged or something else; names the file.
    """
    check_json(folder)
    check_weights(folder)


def _files_of(index: Path) -> list[Path]:
    """The files that an index names, each checked for the tensors that it should hold."""
    values = read_json(index)
    places = values.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} must have a 'weight_map', from tensors to files; {AGAIN}")
    files: dict[str, set[str]] = {}
    for name, place in places.items():
        if not isinstance(place, str) or Path(place).name != place or Path(place).suffix not in SUFFIXES:
            raise ValueError(
                f"{index}: weight_map[{name[:100]!r}] is {str(place)[:100]!r}, no file of weights beside it; {AGAIN}"
            )
        files.setdefault(place, set()).add(name)
    for place, names in sorted(files.items()):
        if not (path := index.parent / place).is_file():
            raise ValueError(
                f"{index.parent} is not complete: it lacks {place}, which {index.name} names; download it."
            )
        found = check_weight_file(path).keys()
        if lacking := sorted(names - found):
            raise ValueError(
                f"{path} lacks {len(lacking)} tensors that {index.name} says it has, such as {lacking[0][:100]!r}; "
                f"{AGAIN}"
            )
        if extra := sorted(found - names):
            raise ValueError(
                f"{index} does not have {len(extra)} tensors of {place}, such as {extra[0][:100]!r}; {AGAIN}"
            )
    if not isinstance(values.get("metadata"), dict):
        raise ValueError(f"{index} must have 'metadata', which may be {{}}; {AGAIN}")
    return [index.parent / place for place in sorted(files)]


def _check_kind(path: Path, start: bytes) -> None:
    """Refuses what is often found in place of a file."""
    if not start:
        raise ValueError(f"{path} is empty; {AGAIN}")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a pointer of Git LFS and not the file itself; run `git lfs pull` in its folder, or download it."
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        raise ValueError(f"{path} is a web page and not the file itself; download the file, by its own link.")
    if not start.strip(b"\0"):
        raise ValueError(f"{path} holds nothing but zeros; {AGAIN}")


def _entry(part: Mapping[str, Any]) -> TensorEntry:
    shape = tuple(part["shape"])
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError("shape")
    first, last = _range(part)
    # Of a type that is younger than this file the size is not known.
    if part["dtype"] in BYTES and last - first != math.prod(shape) * BYTES[part["dtype"]]:
        raise ValueError("size")
    return TensorEntry(str(part["dtype"]), shape)


def _range(part: Mapping[str, Any]) -> tuple[int, int]:
    first, last = part["data_offsets"]
    if type(first) is not int or type(last) is not int or not 0 <= first <= last:
        raise ValueError("offsets")
    return first, last


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return values


def named(value: Any) -> str:
    """What a value that a file holds is called in a message."""
    kinds: tuple[tuple[Any, str], ...] = (
        ((list, tuple), "a list"),
        (str, "text"),
        (bool, "true or false"),
        ((int, float), "a number"),
        (torch.Tensor, "a tensor"),
        (type(None), "null"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), f"a {type(value).__name__}")


def check_place(name: str, place: Any) -> None:
    """Raises a `TypeError` or `ValueError` if this can be neither a folder nor a Hub id."""
    if not isinstance(place, (str, os.PathLike)):
        raise TypeError(f"{name} is {shown(place)}; it must be a folder, or a Hub id.")
    if not str(place).strip() or "\0" in str(place):
        raise ValueError(f"{name} is {shown(place)}; name a folder, or a Hub id.")
