"""The JSON that a request brings."""

from __future__ import annotations

import json
from typing import Any

from fastapi import HTTPException, Request

# Label Studio sends tasks with all that was marked in them.
MAX_JSON_BYTES = 16 * 2**20


async def small_json(request: Request) -> Any:
    """Returns the JSON of a request.

    Raises:
        HTTPException: if it is none, or too large for what is sent here in JSON.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_JSON_BYTES:
            raise HTTPException(413, f"Up to {MAX_JSON_BYTES // 2**20} MiB of JSON are taken here.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise HTTPException(400, "This is not JSON.") from None
