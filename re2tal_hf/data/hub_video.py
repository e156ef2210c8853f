"""A video file of a dataset on the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError
from huggingface_hub.utils import tqdm

from ..video_reader import VideoReadError
from ..video_shard import names_in_shards


@dataclass(frozen=True)
class HubVideo:
    """Names a file without fetching it.

    Attributes:
        repo_id: The dataset, "user/name".
        revision: Its commit.
        filename: The file's path in it; of a member of a shard below that.
    """

    repo_id: str
    revision: str
    filename: str

    @classmethod
    def from_url(cls, url: str) -> HubVideo:
        """Reads `hf://datasets/user/name@commit/file`, the form in which `datasets` streams names.

        Raises:
            ValueError: The URL is of another form.
        """
        match = re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+)", url)
        if match is None:
            raise ValueError(f"{url!r} is not of the form hf://datasets/user/name@commit/file")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo_id}@{self.revision}/{self.filename}"

    def fetch(self) -> Path:
        """Returns the file in the Hub's cache on this machine, where any process fetches it once.

        Of a member of a shard that is its path below the shard, which is fetched whole and serves all its members.

        Raises:
            VideoReadError: It cannot be fetched.
        """
        file, member = next(names_in_shards(self.filename), (self.filename, ""))
        try:
            path = hf_hub_download(self.repo_id, file, repo_type="dataset", revision=self.revision, tqdm_class=_NoBar)
        except (OSError, HTTPError, EntryNotFoundError) as error:
            raise VideoReadError(f"{self}: cannot be fetched: {error}") from error
        return Path(path, member)


class _NoBar(tqdm):
    """Hides the bar of a single file: there are thousands of them, in several processes."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})
