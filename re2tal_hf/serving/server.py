"""The service over HTTP: who may ask, what is taken, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from ..data.video_limits import VideoError
from ..version import __version__
from . import label_studio
from .jobs import ENDS, Job, JobQueue, QueueFull, Status
from .json_body import small_json
from .keys import Keys
from .metrics import CONTENT_TYPE, metrics_text
from .tasks import Work
from .videos import TooLarge, allowed_path, receive, shown_name

THRESHOLD = 0.3
MAX_WAIT = 300.0
RETRY_SECONDS = 5
THIS_MACHINE = ["127.0.0.1", "localhost"]


@dataclass(frozen=True)
class ServerOptions:
    """What the operator decides.

    Attributes:
        folders: Resolved ones, whose videos clients may name in place of an upload.
        max_megabytes: Largest upload.
        max_upload_seconds: Longest time for which an upload is waited on.
        max_jobs: Jobs that may be there and not have ended.
        max_run_seconds: Longest time for which a video is worked on.
        keep_seconds: For which a job is remembered after its end.
    """

    folders: tuple[Path, ...] = ()
    max_megabytes: float = 200.0
    max_upload_seconds: float = 600.0
    max_jobs: int = 32
    max_run_seconds: float = 600.0
    keep_seconds: float = 3600.0


class Action(BaseModel):
    """An action in a video."""

    label: str
    score: float
    start: float = Field(description="seconds")
    end: float = Field(description="seconds")


class JobState(BaseModel):
    """How far a job is, and what came of it."""

    id: str
    video: str = Field(description="what the client calls the video")
    status: Status
    position: int = Field(description="jobs that come before this one while it waits")
    windows_done: int
    windows: int = Field(description="of the video; 0 while they are not counted")
    seconds: float = Field(description="for which the video was worked on; 0 before the end")
    error: str | None = Field(description="why the job failed")
    actions: list[Action] | None = Field(description="best first, of a job that is done")


class Server:
    """A model behind HTTP.

    Args:
        work: Finds the actions of videos.
        keys: Of the clients. Where there are none, only what names this machine as its host is answered.
        options: Of the operator.

    Attributes:
        app: To be served; while it is, there is a folder of uploads, which is gone afterwards.
    """

    queue: JobQueue

    def __init__(self, work: Work, keys: Keys, options: ServerOptions):
        self._work = work
        self._keys = keys
        self._options = options
        self._uploaded_bytes = 0
        # Its pages of documentation would fetch scripts from elsewhere; the schema is at /openapi.json.
        self.app = FastAPI(
            title="Temporal action localization",
            version=__version__,
            description="Which actions happen in a video, and from when to when.",
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        if not keys:
            # Else a page of the browser could ask under a name of its own.
            self.app.add_middleware(TrustedHostMiddleware, allowed_hosts=THIS_MACHINE)
        owner = Depends(self._owner)
        bearer = [Depends(HTTPBearer(auto_error=False))]

        @self.app.get("/health")
        async def health() -> dict[str, str]:
            """Whether the service is there."""
            return {"status": "UP"}

        @self.app.get("/metrics", dependencies=bearer)
        async def metrics(_: str = owner) -> Response:
            """Counters and gauges for Prometheus."""
            return Response(metrics_text(self.queue, self._uploaded_bytes), media_type=CONTENT_TYPE)

        @self.app.post("/v1/jobs", status_code=202, dependencies=bearer, openapi_extra=_BODY, responses=_REFUSALS)
        async def submit(
            request: Request,
            response: Response,
            name: Annotated[str, Query(description="what to call the upload", max_length=1000)] = "video",
            threshold: Annotated[float, Query(ge=0, le=1, description="lowest score")] = THRESHOLD,
            top_k: Annotated[int | None, Query(ge=1, description="most actions, the best")] = None,
            wait: Annotated[float, Query(ge=0, le=MAX_WAIT, description="seconds, for the end")] = 0.0,
            owner: str = owner,
        ) -> JobState:
            """Takes a video: the bytes of a file, or the path of one in an allowed folder."""
            job = await self._submit(request, name, {"threshold": threshold, "top_k": top_k}, owner)
            response.headers["Location"] = f"/v1/jobs/{job.id}"
            await _ended(job, wait)
            response.status_code = 200 if job.status in ENDS else 202
            return self._state(job)

        @self.app.get("/v1/jobs/{job_id}", dependencies=bearer)
        async def state(
            job_id: str, wait: Annotated[float, Query(ge=0, le=MAX_WAIT)] = 0.0, owner: str = owner
        ) -> JobState:
            """How far a job is; with `wait` after its end, or after so many seconds."""
            job = self._job(job_id, owner)
            await _ended(job, wait)
            return self._state(job)

        @self.app.get("/v1/jobs/{job_id}/result", dependencies=bearer)
        async def result(job_id: str, owner: str = owner) -> list[Action]:
            """The actions alone, as `re2tal predict` writes them."""
            job = self._job(job_id, owner)
            if job.result is None:
                raise HTTPException(409, job.error or f"The job is {job.status.value}; it has no result.")
            return Response(job.result, media_type="application/json")  # type: ignore[return-value]

        self.app.include_router(label_studio.router(self._find, self._owner))

        @self.app.delete("/v1/jobs/{job_id}", dependencies=bearer)
        async def cancel(job_id: str, owner: str = owner) -> JobState:
            """Ends a job, whose upload is then removed; one that has ended stays as it is."""
            job = self._job(job_id, owner)
            self.queue.cancel(job)
            return self._state(job)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        options = self._options
        folder = Path(tempfile.mkdtemp(prefix="re2tal-serve-"))
        self.queue = JobQueue(
            self._work,
            folder,
            max_jobs=options.max_jobs,
            max_run_seconds=options.max_run_seconds,
            keep_seconds=options.keep_seconds,
        )
        try:
            yield
        finally:
            await asyncio.to_thread(self.queue.close)
            shutil.rmtree(folder, ignore_errors=True)

    def _owner(self, request: Request) -> str:
        owner = self._keys.owner(request.headers.get("authorization"))
        if owner is None:
            raise HTTPException(
                401, "Send a key of this service: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"}
            )
        return owner

    def _job(self, job_id: str, owner: str) -> Job:
        job = self.queue.get(job_id, owner)
        if job is None:
            raise HTTPException(404, "There is no such job here, or it ended so long ago that it was let go.")
        return job

    def _reserve(self, owner: str, name: str, settings: dict[str, Any]) -> Job:
        try:
            return self.queue.reserve(owner, name, settings)
        except QueueFull:
            said = f"{self._options.max_jobs} jobs are here, as many as may wait; send it again later."
            raise HTTPException(429, said, {"Retry-After": str(RETRY_SECONDS)}) from None

    async def _submit(self, request: Request, name: str, settings: dict[str, Any], owner: str) -> Job:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            sent = await small_json(request)
            text = sent.get("path") if isinstance(sent, dict) else None
            if not isinstance(text, str):
                raise HTTPException(422, 'Send {"path": "..."}, a video in an allowed folder, or the bytes of a video.')
            return self._start(text, settings, owner)
        if kind.startswith("multipart/"):
            raise HTTPException(
                415, "Send the bytes of the video as they are, not as a form: curl --data-binary @FILE."
            )
        job = self._reserve(owner, shown_name(name), settings)
        await self._receive(request, job)
        return job

    def _start(self, text: str, settings: dict[str, Any], owner: str) -> Job:
        """Lets a job wait whose video is in an allowed folder."""
        path = allowed_path(text, self._options.folders)
        if path is None:
            raise HTTPException(404, "There is no such video in an allowed folder.")
        job = self._reserve(owner, path.name, settings)
        self.queue.start(job, path)
        return job

    async def _find(self, text: str, owner: str) -> list[dict[str, Any]]:
        """The detections of a video in an allowed folder, at the end of its job."""
        job = self._start(text, {"threshold": THRESHOLD}, owner)
        await _ended(job, None)
        if job.result is None:
            raise HTTPException(422, job.error or "The job was cancelled.")
        return json.loads(job.result)

    async def _receive(self, request: Request, job: Job) -> None:
        """Writes an upload to the job's folder and lets the job wait; whatever goes wrong ends it."""
        max_bytes = round(self._options.max_megabytes * 2**20)
        too_large = f"{job.name} is too large; up to {self._options.max_megabytes:g} MB are taken here."
        announced = request.headers.get("content-length", "")
        refusal: HTTPException | None = None
        try:
            if announced.isdecimal() and int(announced) > max_bytes:
                raise TooLarge
            receiving = receive(request.stream(), job.folder, max_bytes)
            path = await asyncio.wait_for(receiving, self._options.max_upload_seconds)
        except TooLarge:
            refusal = HTTPException(413, too_large)
        except VideoError as error:
            refusal = HTTPException(422, str(error))
        except ClientDisconnect:
            refusal = HTTPException(400, "The upload broke off.")
        except asyncio.TimeoutError:
            refusal = HTTPException(408, "The upload took too long.")
        except OSError:
            refusal = HTTPException(507, "The server has no room for the video now.")
        except BaseException:  # the server ends, or a fault of ours
            self.queue.fail(job, "The upload broke off.")
            raise
        if refusal is not None:
            self.queue.fail(job, str(refusal.detail))
            raise refusal
        self._uploaded_bytes += path.stat().st_size
        self.queue.start(job, path)

    def _state(self, job: Job) -> JobState:
        return JobState(
            id=job.id,
            video=job.name,
            status=job.status,
            position=self.queue.position(job),
            windows_done=job.done,
            windows=job.windows,
            seconds=job.seconds,
            error=job.error,
            actions=None if job.result is None else json.loads(job.result),
        )


async def _ended(job: Job, seconds: float | None) -> None:
    """Waits for the end of a job, for so long at the most; None for as long as it takes."""
    if seconds != 0 and not job.ended.done():
        await asyncio.wait([asyncio.wrap_future(job.ended)], timeout=seconds)


_PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": _PATH},
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "no key of this service"},
    404: {"description": "no such video in an allowed folder"},
    413: {"description": "too large"},
    415: {"description": "a form in place of bytes"},
    429: {"description": "the queue is full"},
}
