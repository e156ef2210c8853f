"""A Gradio page that takes what its visitors upload and nothing else.

Gradio itself fetches whatever address stands where a file is expected, whole and without a limit, and reads a
request's JSON whatever its size.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

MAX_JSON_BYTES = 4 * 2**20
# Of a form around the file in it.
FORM_BYTES = 2**16
# Routes of Gradio that fetch addresses, or hand files to ffmpeg; no page here uses them.
CLOSED_ROUTES = ("/file=http:", "/file=https:", "/file/http:", "/file/https:", "/proxy=", "/process_recording")

# What is of the wrong form at an endpoint ends here, and so does a fault of ours.
UNEXPECTED = "This could not be done: an input is not of its form, or the page has a fault; its log says more."
logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class UploadsOnly(gr.Blocks):
    """Blocks whose inputs, at every endpoint, name no files but uploads, and whose requests are bounded."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> list[Any]:
        """As in Gradio, which fetches and opens files here.

        Raises:
            Error: If an input names anything but an upload.
        """
        for path in _named_files(inputs):
            if trouble := _trouble(path):
                raise gr.Error(trouble, print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *arguments, **options)

    async def process_api(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As in Gradio, which tells nothing of an error that nobody expected.

        Raises:
            Error: With a message in any case.
        """
        try:
            return await super().process_api(*arguments, **options)
        except gr.Error as error:
            if not str(error.message).strip():
                raise gr.Error(UNEXPECTED, print_exception=False) from error
            raise
        except Exception as error:
            logger.exception("a request failed")
            raise gr.Error(f"{UNEXPECTED} ({type(error).__name__})", print_exception=False) from error

    def serve(self, *, max_file_size: int, **options: Any) -> Any:
        """Launches the page; `max_file_size`, in bytes, is a limit on the whole request too."""
        limits = Middleware(BoundedRequests, max_upload_bytes=max_file_size + FORM_BYTES)
        return self.launch(max_file_size=max_file_size, app_kwargs={"middleware": [limits]}, **options)


class BoundedRequests:
    """ASGI middleware: requests are read up to a size, and the routes of no use here are not there.

    Args:
        app: What it stands before.
        max_upload_bytes: Of an upload; any other request may have `MAX_JSON_BYTES`.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], max_upload_bytes: int):
        self._app = app
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, its body counted."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        if any(route in path for route in CLOSED_ROUTES):
            return await PlainTextResponse("Not found", 404)(scope, receive, send)
        limit = self._max_upload_bytes if path.rstrip("/").endswith("/upload") else MAX_JSON_BYTES
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limit:
            text = f"The request exceeds the maximum allowed size of {limit} bytes."
            return await PlainTextResponse(text, 413)(scope, receive, send)
        left = limit

        async def receive_bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            # Of a request that did not say its size.
            return message if left >= 0 else {"type": "http.disconnect"}

        return await self._app(scope, receive_bounded, send)


def _named_files(value: Any) -> Iterator[str]:
    """The paths of all files in a request, however deep."""
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            yield path
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _named_files(item)


def _trouble(path: str) -> str | None:
    """Why a path is none of an upload; None if it is one."""
    try:
        file = Path(path).resolve()
        if file.is_relative_to(Path(get_upload_folder()).resolve()):
            return None if file.is_file() else "The file is no longer here; send it again."
    except (OSError, ValueError, RuntimeError):  # what no file system takes for a name
        pass
    return "This page takes uploads only, no addresses and no files of the server: send the file itself."
