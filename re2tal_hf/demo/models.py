"""The models of the page: the operator's own, and those that visitors name by their Hub ids."""

import contextlib
import fnmatch
import logging
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from .. import Re2TALConfig
from ..pipeline_re2tal import load_pipeline
from ..saved_files import read_json
from ..training.model_source import HUB_ID, find_model
from .model_limits import MAX_JSON_MEGABYTES, ModelError, check_cost

logger = logging.getLogger(__name__)

MODEL_FILES = ("config.json", "*preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
HUB_TIMEOUT = 10.0


class ModelShelf:
    """Loads models when they are asked for and keeps the few that were used last.

    A visitor's model is read from the Hub only, without the operator's token and never from a folder of this
    machine; of its files only configuration and safetensors weights are fetched, and deleted once loaded.

    Args:
        own: folder of a model or of a training run, or a Hub id: the operator's model.
        max_models: number of models kept in memory.
        max_megabytes: largest model that a visitor may ask for.
        max_seconds: of the longest video that it may be asked to look through.
        trust_remote_code: whether the code in a visitor's model is run.

    Attributes:
        own_name: what the operator's model is called.

    Raises:
        ModelError: if `own` is neither a folder with a model nor a Hub id.
    """

    def __init__(
        self,
        own: str,
        *,
        max_models: int = 2,
        max_megabytes: float = 1000.0,
        max_seconds: float = 600.0,
        trust_remote_code: bool = False,
    ):
        self._own = _find_model(own)
        self.own_name = own if HUB_ID.fullmatch(own) and not Path(own).is_dir() else Path(own).resolve().name
        self._max_models = max_models
        self._max_megabytes = max_megabytes
        self._max_seconds = max_seconds
        self._trust_remote_code = trust_remote_code
        self._pipelines: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def pipeline(self, name: str = "") -> Any:
        """The pipeline of a model.

        Args:
            name: `user/name` or `user/name@revision` on the Hub; empty for the operator's model.

        Raises:
            ModelError: if there is no such model, it is not of ours or too large, or the Hub does not answer.
        """
        name = name.strip()
        if name == self.own_name:
            name = ""
        with self._lock:
            if name not in self._pipelines:
                self._pipelines[name] = self._load_from_hub(name) if name else self._load_own()
            self._pipelines.move_to_end(name)
            while len(self._pipelines) > self._max_models:
                self._pipelines.popitem(last=False)
            return self._pipelines[name]

    def _load_own(self) -> Any:
        if Path(self._own).is_dir():
            return _load(self._own, self.own_name, trust_remote_code=self._trust_remote_code)
        return self._load_from_hub(self._own, token=None)

    def _load_from_hub(self, name: str, token: bool | None = False) -> Any:
        match = HUB_ID.fullmatch(name)
        if match is None or ".." in name:
            raise ModelError(f"{name[:100]!r} is not a model's id: write user/name or user/name@revision.")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                self._download(match["repo"], match["revision"], folder, token)
            except GatedRepoError as error:
                raise ModelError(f"{name} is gated; this page reads public models only.") from error
            except RepositoryNotFoundError as error:
                raise ModelError(f"There is no public model {match['repo']} on the Hub; check its id.") from error
            except RevisionNotFoundError as error:
                raise ModelError(f"{match['repo']} has no revision {match['revision']!r}.") from error
            except ModelError:
                raise
            except Exception as error:  # which HTTP library's errors these are depends on huggingface_hub's version
                logger.warning("%s cannot be fetched", name, exc_info=True)
                raise ModelError(f"{name} could not be fetched from the Hub; try again later.") from error
            with _reporting(name):
                check_cost(folder, name, self._max_megabytes, self._max_seconds)
            return _load(folder, name, trust_remote_code=self._trust_remote_code)

    def _download(self, repo: str, revision: str | None, folder: str, token: bool | None) -> None:
        """Fetches the files of a model of ours, its configuration first."""
        files = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=HUB_TIMEOUT, token=token)
        patterns = [*MODEL_FILES, *(["*.py"] if self._trust_remote_code else [])]
        sizes = {
            file.rfilename: file.size or 0
            for file in files.siblings or []
            if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)
        }
        if "config.json" not in sizes:
            raise ModelError(f"{repo} holds no config.json: it is not a model of re2tal_hf.")
        if (megabytes := sum(sizes.values()) / 2**20) > self._max_megabytes:
            raise ModelError(f"{repo} has {megabytes:.0f} MB; this page takes up to {self._max_megabytes:g} MB.")
        for file, size in sizes.items():
            if file.endswith(".json") and size > MAX_JSON_MEGABYTES * 2**20:
                raise ModelError(
                    f"{repo}: {file} has {size / 2**20:.0f} MB; this page takes up to {MAX_JSON_MEGABYTES:g} MB."
                )
        for wanted in (["config.json"], list(sizes)):
            snapshot_download(
                repo, revision=files.sha, allow_patterns=wanted, local_dir=folder, token=token, etag_timeout=HUB_TIMEOUT
            )
            _check_type(Path(folder), repo)


def _load(folder: str, name: str, *, trust_remote_code: bool) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _reporting(name):
        return load_pipeline(folder, device=device, trust_remote_code=trust_remote_code)


@contextlib.contextmanager
def _reporting(name: str) -> Iterator[None]:
    """What a stranger's files make the libraries raise is not to be foreseen; it becomes a message."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        logger.warning("%s does not load", name, exc_info=True)
        raise ModelError(f"{name} does not load: {str(error)[:300]}") from error


def _find_model(own: str) -> str:
    """The folder of the operator's model or a Hub id."""
    try:
        found = find_model(own, "--model", revision=True)
    except ValueError as error:
        raise ModelError(str(error)) from error
    if Path(found).is_dir():
        _check_type(Path(found), own)
    return found


def _check_type(folder: Path, name: str) -> None:
    try:
        model_type = read_json(folder / "config.json").get("model_type")
    except (OSError, ValueError) as error:
        reason = str(error).replace(f"{folder}/", "")
        raise ModelError(f"{name}: its config.json is not that of a model: {reason}") from error
    if model_type != Re2TALConfig.model_type:
        raise ModelError(
            f"{name} is a model of type {str(model_type)[:50]!r}; this page runs those of type "
            f"{Re2TALConfig.model_type!r}, trained with re2tal_hf."
        )
