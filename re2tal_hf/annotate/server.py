"""What the page asks for and sends, over HTTP, from this machine alone."""

from __future__ import annotations

import functools
import hmac
import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..value_checks import shown
from ..video_reader import VideoReadError
from .media import Media
from .project import ChangedElsewhere, Project, formats
from .proposals import Proposals
from .training import Training

HOSTS = ["127.0.0.1", "localhost"]
PAGE_FILES = {
    "page.html": "text/html",
    "page.js": "text/javascript",
    "ask.js": "text/javascript",
    "keys.js": "text/javascript",
    "player.js": "text/javascript",
    "proposals.js": "text/javascript",
    "timeline.js": "text/javascript",
    "training.js": "text/javascript",
    "page.css": "text/css",
}
# Orders of the queue.
LISTED, UNCERTAIN = "listed", "uncertain"
MAX_BODY_BYTES = 8 * 2**20
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Answer = Callable[[Request], Response]


class Server:
    """The page of a project.

    Videos are named by their place in the queue, never by a path; whoever asks shows the key that the address printed
    at the start has, so that neither other users of the machine nor other pages of the browser read or write.

    Args:
        project: That is marked.
        proposals: Of a model, where there is one.
        training: That the page can begin.

    Attributes:
        key: That the address must have once.
        app: To be served.
    """

    def __init__(self, project: Project, proposals: Proposals | None = None, training: Training | None = None):
        self._project, self._proposals, self._training = project, proposals, training
        self._media = Media(project)
        self.key = secrets.token_urlsafe(24)
        routes = [
            Route("/", self._page),
            Route("/api/state", _answering(self._state)),
            Route("/api/videos/{number:int}", _answering(self._video)),
            Route("/api/videos/{number:int}/media", _answering(self._play)),
            Route("/api/videos/{number:int}/strip", _answering(self._strip)),
            Route("/api/videos/{number:int}/proposals", _answering(self._proposed)),
            Route("/api/videos/{number:int}", self._mark, methods=["PUT"]),
            Route("/api/training", _answering(self._trained), methods=["GET", "POST", "DELETE"]),
            Route("/api/download/{kind}", _answering(self._download)),
            *(Route(f"/{name}", functools.partial(_page_file, name)) for name in PAGE_FILES if name != "page.html"),
        ]
        guards = [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS), Middleware(_Guard, key=self.key)]
        self.app = Starlette(routes=routes, middleware=guards)

    def _page(self, request: Request) -> Response:
        if "key" in request.query_params:
            # The cookie is set by then; the key would stay in the history.
            return RedirectResponse("/")
        return _page_file("page.html", request)

    def _state(self, request: Request) -> Response:
        project = self._project
        queue = self._queue(request.query_params.get("order", LISTED))
        records = [project.record(number) for number in range(len(project.ids))]
        labels = {*project.labels(), *(self._proposals.labels if self._proposals else ())}
        return JSONResponse(
            {
                "folder": project.folder.resolve().name,
                "model": self._proposals.model if self._proposals else None,
                "trains": self._training is not None,
                "labels": sorted(labels),
                "formats": formats(),
                "queue": queue,
                "next": next((number for number in queue if not records[number].subset), None),
                "videos": [
                    {"id": video_id, "actions": len(record.labels), "finished": bool(record.subset)}
                    for video_id, record in zip(project.ids, records, strict=True)
                ],
            }
        )

    def _queue(self, order: str) -> list[int]:
        """Videos as they are offered: as listed, or those first of which the model knows least."""
        numbers = range(len(self._project.ids))
        if order not in (LISTED, UNCERTAIN):
            raise ValueError(f"order is {shown(order)}; it must be {LISTED} or {UNCERTAIN}.")
        if order == LISTED or self._proposals is None:
            return list(numbers)
        known = [self._proposals.uncertainty(number) for number in numbers]
        least_known = [1.0 if found is None else -found for found in known]
        return sorted(numbers, key=lambda number: (bool(self._project.record(number).subset), least_known[number]))

    def _video(self, request: Request) -> Response:
        number = self._number(request)
        record = self._project.record(number)
        with self._project.reader(number) as reader:
            shape = {"duration": reader.duration, "frame_rate": reader.frame_rate}
        playable = self._media.file(number) is not None
        return JSONResponse(
            {
                "id": self._project.ids[number],
                "revision": self._project.revisions[number],
                **shape,
                "finished": bool(record.subset),
                "actions": [
                    {"start": start, "end": end, "label": str(label)}
                    for (start, end), label in zip(record.segments, record.labels, strict=True)
                ],
                "prepared": 1.0 if playable else self._media.prepare(number),
            }
        )

    def _play(self, request: Request) -> Response:
        path = self._media.file(self._number(request))
        if path is None:
            raise ValueError("The copy of this video is not written yet.")
        return FileResponse(path, media_type="video/mp4", headers={"Cache-Control": "no-cache"})

    def _strip(self, request: Request) -> Response:
        times = [float(text) for text in request.query_params.get("times", "").split(",")[:1000] if text]
        content = self._media.strip(self._number(request), times)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    def _proposed(self, request: Request) -> Response:
        if self._proposals is None or self._proposals.model is None:
            raise ValueError("There is no model: start re2tal annotate with --model, or train one.")
        found = self._proposals.of(self._number(request))
        return JSONResponse(
            {
                "ready": found.ready,
                "progress": found.progress,
                "error": found.error,
                "rows": self._proposals.spelled(found.rows),
            }
        )

    def _trained(self, request: Request) -> Response:
        if self._training is None:
            raise ValueError("There is nothing that trains.")
        if request.method == "POST":
            self._training.start()
        if request.method == "DELETE":
            self._training.stop()
        return JSONResponse({"running": self._training.running, "status": self._training.status()})

    async def _mark(self, request: Request) -> Response:
        sent = await _sent(request)
        return await _in_thread(lambda _: JSONResponse({"revision": self._save(request, sent)}), request)

    def _save(self, request: Request, sent: dict[str, Any]) -> int:
        number = self._number(request)
        return self._project.mark(number, sent.get("actions"), sent.get("finished"), sent.get("revision"))

    def _download(self, request: Request) -> Response:
        name, content = self._project.written(request.path_params["kind"])
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    def _number(self, request: Request) -> int:
        number = int(request.path_params["number"])
        if number >= len(self._project.ids):
            raise ValueError(f"There are {len(self._project.ids)} videos, and none of number {number}.")
        return number


class _Guard:
    """Lets through who has the key, in the address or in the cookie that it was exchanged for, and adds the headers."""

    def __init__(self, app: ASGIApp, key: str):
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        # Browsers tell ports of one host apart in addresses, but not in cookies.
        cookie = f"re2tal_{(scope.get('server') or ('', 0))[1]}"
        shown = request.query_params.get("key", "")
        fits = [
            hmac.compare_digest(text.encode(), self._key.encode()) for text in (shown, request.cookies.get(cookie, ""))
        ]

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = HEADERS | (
                    {"Set-Cookie": f"{cookie}={self._key}; HttpOnly; SameSite=Strict; Path=/"} if fits[0] else {}
                )
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in added.items()]
            await send(message)

        refused = JSONResponse({"error": "Open the address that re2tal annotate has printed."}, 403)
        await (self._app if any(fits) else refused)(scope, receive, answer)


def listen(port: int, host: str = HOSTS[0]) -> socket.socket:
    """Returns a socket, by default of this machine alone.

    Raises:
        OSError: The port cannot be had.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        # Whoever asks as soon as the address is printed waits for the answer.
        opened.listen()
    except OSError as error:
        opened.close()
        raise OSError(
            f"--port {port} of {host} cannot be listened on ({error.strerror}): name another one, or 0 for any."
        ) from error
    return opened


def serve(app: Starlette, opened: socket.socket) -> None:
    """Answers on a socket until it is interrupted."""
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[opened])


def _page_file(name: str, request: Request) -> Response:
    return FileResponse(
        Path(__file__).with_name(name), media_type=PAGE_FILES[name], headers={"Cache-Control": "no-cache"}
    )


def _answering(answer: Answer) -> Answer:
    """Makes errors that tell what is wrong the answer."""

    @functools.wraps(answer)
    def answered(request: Request) -> Response:
        try:
            return answer(request)
        except ChangedElsewhere as error:
            return JSONResponse({"error": str(error)}, 409)
        except (VideoReadError, ValueError, OSError) as error:
            return JSONResponse({"error": str(error)}, 400)

    return answered


async def _in_thread(answer: Answer, request: Request) -> Response:
    return await run_in_threadpool(_answering(answer), request)


async def _sent(request: Request) -> dict[str, Any]:
    """The object that a request sends; an empty one where it is none."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            return {}
    try:
        sent = json.loads(content)
    except ValueError:
        return {}
    return sent if isinstance(sent, dict) else {}
