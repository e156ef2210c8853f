"""Who may use the service: keys from a file or the environment, compared in constant time."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "RE2TAL_SERVE_KEYS"
MIN_LETTERS = 16
# Of whoever asks, where there are no keys.
ANYONE = "anyone"


class Keys:
    """The keys of a service; of each only a digest is kept.

    Args:
        keys: One of them opens the service; where there are none it is open.

    Raises:
        ValueError: if one is short enough to be guessed.
    """

    def __init__(self, keys: list[str]):
        if short := [number for number, key in enumerate(keys, start=1) if len(key) < MIN_LETTERS]:
            raise ValueError(
                f"Key {short[0]} has less than {MIN_LETTERS} letters; make one with `openssl rand -hex 32`."
            )
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, header: str | None) -> str | None:
        """Returns whose key an `Authorization` header has, `Bearer KEY` or Basic with it as the password; else None."""
        if not self._digests:
            return ANYONE
        shown = _digest(_key_of(header or ""))
        # All of them, so that the time tells nothing.
        fits = [hmac.compare_digest(shown, digest) for digest in self._digests]
        return shown.hex() if any(fits) else None


def read_keys(file: str | None, environment: Mapping[str, str]) -> Keys:
    """Reads the keys, one a line of a file or of the environment variable; lines that begin with `#` do not count.

    Args:
        file: Of keys; None for none.
        environment: With `RE2TAL_SERVE_KEYS`, whose keys count in addition.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it has no key, or one is too short.
    """
    keys = _lines(environment.get(VARIABLE, ""))
    if file is not None:
        try:
            found = _lines(Path(file).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"--keys {file}: not a text; give a file with a key on each line.") from error
        if not found:
            raise ValueError(f"--keys {file}: no key in it; write one on each line.")
        keys += found
    return Keys(list(dict.fromkeys(keys)))


def _lines(text: str) -> list[str]:
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _key_of(header: str) -> bytes:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
