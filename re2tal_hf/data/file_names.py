"""Names of files made of the ids and names that data bring along, whatever stands in them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

# In bytes; the longest name that file systems take has 255, and an ending, a digest or a number may follow.
MAX_BYTES = 120
# Control and format characters (with those that turn the reading direction), halves of pairs, unassigned ones,
# separators of lines and paragraphs.
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_SEPARATORS = '/\\:*?"<>|'
# Devices of Windows, whatever follows behind a dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)


def safe_name(name: str) -> str:
    """Makes a file's name, without ending, of any text: one part of a path that every file system takes.

    A name that is fit stays as it is. Of any other what is not fit is replaced, and a digest of the whole is added,
    so that different names stay different.
    """
    text = unicodedata.normalize("NFC", name)
    text = "".join("_" if c in _SEPARATORS or unicodedata.category(c) in _UNSEEN else c for c in text)
    text = re.sub(r"^[\s.\-~]+|[\s.]+$", "_", text)
    if _RESERVED.fullmatch(text):
        text = f"_{text}"
    text = text.encode()[:MAX_BYTES].decode(errors="ignore").rstrip(" .")
    if text == unicodedata.normalize("NFC", name) and text:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{text or '_'}-{digest}"


def distinct_names(names: Iterable[str]) -> list[str]:
    """`safe_name` of each, all different also where the file system does not tell upper from lower case.

    Of names that are the same the first keeps its own, and the others get a number.
    """
    taken: set[str] = set()
    made = []
    for name in names:
        wanted = safe_name(name)
        found, number = wanted, 1
        while (key := unicodedata.normalize("NFC", found).casefold()) in taken:
            number += 1
            found = f"{wanted}-{number}"
        taken.add(key)
        made.append(found)
    return made
