"""Positions over HTTP: the application behind `heimdall-serve`.

Features of each request are computed in a pool of threads; one call of the network then answers
all requests that are ready. A model from the registry is followed: what its alias leads to next is
loaded beside it, and takes over when it is warm.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from heimdall_locate.output import geojson
from heimdall_locate.sites import geodesic_m
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from heimdall_export.errors import ExportError
from heimdall_export.registry.published import find_published
from heimdall_export.serving.metrics import CHALLENGER, CHAMPION, Metrics
from heimdall_export.serving.predictor import Predictor
from heimdall_export.serving.schema import (
    QUESTION,
    RECORDINGS,
    Answer,
    ModelInUse,
    Problem,
    Status,
)

if TYPE_CHECKING:
    from heimdall_features import ClockedRecording
    from heimdall_locate import Position
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from heimdall_export.registry.published import PublishedModel
    from heimdall_export.serving.predictor import Inputs

    _Prepared = tuple[dict[str, ClockedRecording], Inputs]

LARGEST_BATCH, MOST_FIELDS = 32, 1000
LARGEST_BODY, ALL_BODIES, SMALLEST = 2**25, 2**28, 2**20
"""Bytes of one body and of all that are inside; smaller ones count as SMALLEST."""
TURN_S = 0.05
"""How long a request waits to compute its features alone. Threads that do so at once share Python's
lock, and three of them answer a third fewer requests."""
_LOG = logging.getLogger(__name__)
_BEARER = HTTPBearer(auto_error=False, description="HEIMDALL_SERVE_TOKEN, where it is set")
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": why}
    for status, why in {
        401: "no valid token",
        408: "the body did not arrive in time",
        413: "the body is too large, or has no Content-Length",
        422: "the request cannot be answered",
        503: "too many requests are inside, or the model is still loading",
    }.items()
}


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """What a service answers with."""

    model: str
    """File, `s3://…` or `models:/name@alias`."""
    challenger: str | None = None
    """A second model that gets the same recordings, and whose answers are only recorded."""
    poll_s: float = 30.0
    """How soon a promotion is noticed."""
    upload_s: float = 30.0
    """In which a body must arrive."""
    token: str | None = None
    """Required from callers; anyone may ask if None."""
    cache_dir: str | None = None
    """Folder for downloaded models."""

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch("[!-~]([ -~]*[!-~])?", self.token):
            raise ExportError(
                "HEIMDALL_SERVE_TOKEN has a character outside printable ASCII, such as a line "
                "break or an accent, or a blank at an end, and headers cannot carry it; choose "
                "another token"
            )


class Followed:
    """The model that an address leads to now."""

    def __init__(self, address: str, role: str, cache_dir: str | None, metrics: Metrics) -> None:
        """Load nothing yet."""
        self.model: Predictor | None = None
        self._address, self._role, self._cache_dir = address, role, cache_dir
        self._metrics = metrics

    def refresh(self) -> None:
        """Load the model if there is none yet, or the registry names another version by now.

        Raises:
            ExportError: As of `Predictor`; the model stays as it was.
        """
        found: Any = self._address
        if self.model is not None:
            if self.model.published is None:
                return
            found = find_published(self._address)
            if found == self.model.published:
                return
        model = Predictor(found, n_threads=1, cache_dir=self._cache_dir)
        self._metrics.model.remove_by_labels({"role": self._role})
        self._metrics.model.labels(self._role, model.version, model.run_id).set(1)
        self.model = model
        _LOG.info("%s: version %s is loaded", self._role, model.version)

    async def follow(self, poll_s: float) -> None:
        """Refresh the model again and again."""
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # noqa: BLE001 - whatever it is, the old model goes on
                self._metrics.not_loaded.labels(self._role).inc()
                stays = f"version {self.model.version} stays" if self.model else "none is loaded"
                _LOG.warning("%s: %s: %s", self._role, stays, error)
            await asyncio.sleep(poll_s)


class Service:
    """Requests inside, the models that answer them, and what is counted."""

    def __init__(self, config: ServiceConfig) -> None:
        """Load nothing yet."""
        self.config = config
        self.metrics = Metrics(LARGEST_BATCH)
        self.champion = Followed(config.model, CHAMPION, config.cache_dir, self.metrics)
        self.challenger = (
            None
            if config.challenger is None
            else Followed(config.challenger, CHALLENGER, config.cache_dir, self.metrics)
        )
        self.ready: asyncio.Queue[tuple[Predictor, Inputs, asyncio.Future[Any]]] = asyncio.Queue()
        self.inside = 0
        self._pool = ThreadPoolExecutor(1 + (os.cpu_count() or 1))  # a slow request blocks one
        self._turn = threading.Lock()
        self._challenging: asyncio.Task[None] | None = None

    async def work(self) -> None:
        """Load the model, then answer and follow the registry until cancelled.

        Raises:
            ExportError: The model cannot be loaded.
        """
        await asyncio.to_thread(self.champion.refresh)
        followed = filter(None, (self.champion, self.challenger))
        await asyncio.gather(self._answer(), *(one.follow(self.config.poll_s) for one in followed))

    async def locate(self, request: Request) -> Response:
        """A position, or an `HTTPException`."""
        model = self.champion.model
        if model is None:
            raise HTTPException(503, "the model is still loading; try again")
        size = max(int(request.headers.get("content-length", 0)), SMALLEST)
        if size > LARGEST_BODY or "transfer-encoding" in request.headers:  # nothing is read yet
            raise HTTPException(413, f"give a Content-Length of at most {LARGEST_BODY}")
        if self.inside + size > ALL_BODIES:
            raise HTTPException(503, "too many requests are waiting; try again")
        loop = asyncio.get_running_loop()
        self.inside += size
        try:
            body = await asyncio.wait_for(request.body(), self.config.upload_s)
            recordings, inputs = await loop.run_in_executor(self._pool, self._prepare, model, body)
            reply: asyncio.Future[Any] = loop.create_future()
            self.ready.put_nowait((model, inputs, reply))
            if isinstance(position := await reply, Exception):
                raise position  # the log has it, unless it is the caller's fault
        except ValidationError as error:
            raise HTTPException(422, f"{_told(error):.1000}") from error
        except ExportError as error:
            raise HTTPException(422, f"{error!s:.1000}") from error
        except TimeoutError as error:
            late = f"the body did not arrive within {self.config.upload_s:g} s"
            raise HTTPException(408, late) from error
        except ClientDisconnect as error:  # nobody reads this; it is counted
            raise HTTPException(499, "the caller hung up") from error
        finally:
            self.inside -= size
        self.metrics.count(CHAMPION, model, position)
        self.metrics.count_receivers(position, inputs)
        self._challenge(model, position, recordings)
        answer = {"model_version": model.version, "position": position.to_dict()}
        text = to_json(answer | {"on_a_map": geojson(position, ())})
        return Response(text, media_type="application/json")

    def _prepare(self, model: Predictor, body: bytes) -> _Prepared:
        """Prepare a request in turn, or beside one that takes long."""
        turn = self._turn
        is_mine = turn.acquire(timeout=TURN_S)
        if not is_mine and self._turn is turn:
            self._turn = threading.Lock()  # those who come now need not wait as long
        try:
            return _prepare(model, body)
        finally:
            if is_mine:
                turn.release()

    async def _answer(self) -> None:
        """Ask the network, in one call, for all who became ready while it was busy."""
        while True:
            batch = [await self.ready.get()]
            more = min(self.ready.qsize(), LARGEST_BATCH - 1)
            batch += [self.ready.get_nowait() for _ in range(more)]
            self.metrics.batch.observe(len(batch))
            for model, group in groupby(batch, lambda one: one[0]):  # two, if one is replaced
                _, inputs, replies = zip(*group, strict=True)
                answers: tuple[Position | Exception, ...]
                try:
                    answers = await asyncio.to_thread(model.answer_each, inputs)
                except Exception as error:  # noqa: BLE001 - this batch has failed, not the service
                    answers = (error,) * len(replies)
                for reply, answer in zip(replies, answers, strict=True):
                    if not reply.cancelled():  # whoever hung up needs no answer
                        reply.set_result(answer)

    def _challenge(
        self, champion: Predictor, position: Position, recordings: dict[str, ClockedRecording]
    ) -> None:
        """Ask the challenger too, unless it is busy; nobody waits for it."""
        model = self.challenger.model if self.challenger else None
        if model is None or _identity(model) == _identity(champion):
            return
        if self._challenging is not None and not self._challenging.done():
            self.metrics.challenged.labels("skipped").inc()
            return
        ask = asyncio.to_thread(self._compare, champion, position, model, recordings)
        self._challenging = asyncio.create_task(ask)

    def _compare(
        self,
        champion: Predictor,
        position: Position,
        challenger: Predictor,
        recordings: dict[str, ClockedRecording],
    ) -> None:
        try:
            other = challenger.predict(recordings)
        except ExportError as error:
            self.metrics.challenged.labels("refused").inc()
            _LOG.warning("challenger: version %s refuses: %s", challenger.version, error)
            return
        except Exception as error:  # noqa: BLE001 - the challenger has failed, not the service
            self.metrics.challenged.labels("failed").inc()
            _LOG.warning("challenger: version %s fails: %s", challenger.version, error)
            return
        self.metrics.challenged.labels("answered").inc()
        self.metrics.count(CHALLENGER, challenger, other)
        here = (position.latitude_deg, position.longitude_deg)
        apart_m = float(geodesic_m(*here, other.latitude_deg, other.longitude_deg))
        self.metrics.apart.observe(apart_m)
        answers = {CHAMPION: (champion, position), CHALLENGER: (challenger, other)}
        told = {
            role: {
                "version": model.version,
                "latitude_deg": one.latitude_deg,
                "longitude_deg": one.longitude_deg,
                "ellipse_95_m": one.ellipse_95.semi_major_m,
                "unexplained": one.unexplained,
            }
            for role, (model, one) in answers.items()
        }
        _LOG.info("%s", json.dumps(told | {"apart_m": apart_m}))


def _identity(model: Predictor) -> PublishedModel | str:
    return model.published or model.run_id


def _prepare(model: Predictor, body: bytes) -> _Prepared:
    """A request's recordings, and the inputs of the network, which take the most time."""
    if _count(body, b",") > MOST_FIELDS:  # before they become objects
        raise ExportError(f"more than {MOST_FIELDS} fields")
    asked = RECORDINGS.validate_json(body)
    # Each key is followed by a colon. Neither base64 nor numbers have one, but names may.
    keys = sum(1 + name.count(":") + len(one.model_fields_set) for name, one in asked.items())
    if _count(body, b":") > keys:
        raise ExportError("a receiver or a field is given twice; give each once")
    recordings = {name: recording.clocked() for name, recording in asked.items()}
    return recordings, model.prepare(recordings)


def _count(body: bytes, character: bytes) -> int:
    """Times that a rare character is in a body, up to some more than the most that are allowed.

    `bytes.count` takes 30 times as long, more than all the rest of reading a request.
    """
    found, at = 0, body.find(character)
    while at >= 0 and found <= 2 * MOST_FIELDS:
        found, at = found + 1, body.find(character, at + 1)
    return found


def _told(error: ValidationError) -> str:
    """The fields that are wrong, and what is wrong with each."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = []
    for one in problems:
        field = ".".join(map(str, one["loc"]))
        message = one["msg"].removeprefix("Value error, ")
        told.append(f"{field}: {message}" if field else message)
    return "; ".join(told)


def make_app(service: Service) -> FastAPI:
    """The application of one service; its models are loaded by `Followed.refresh`."""

    async def allowed(
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    ) -> None:
        token = service.config.token
        if token is None:
            return
        sent = given.credentials if given else ""
        if not secrets.compare_digest(sent.encode(), token.encode()):
            wanted = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "give the service's token: Authorization: Bearer …", wanted)

    app = FastAPI(
        title="Heimdall",
        summary="Where a radio transmitter is, and how sure we are",
        version=version("heimdall-export"),
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(_CountRequests, metrics=service.metrics)
    question = {"schema": RECORDINGS.json_schema(), "example": QUESTION}

    @app.post(
        "/locate",
        dependencies=[Depends(allowed)],
        response_model=Answer,
        responses=_PROBLEMS,
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": question}}
        },
    )
    async def locate(request: Request) -> Response:
        """Position of a transmitter from recordings by receiver; receivers may be missing."""
        return await service.locate(request)

    @app.get(
        "/model",
        dependencies=[Depends(allowed)],
        response_model_exclude_none=True,
        responses={status: _PROBLEMS[status] for status in (401, 503)},
    )
    async def model() -> ModelInUse:
        """The model that answers, and the receivers that it knows."""
        used = loaded()
        published = asdict(used.published) if used.published else {"version": used.version}
        return ModelInUse(**published, hears=[receiver.name for receiver in used.receivers])

    @app.get("/health")
    async def health() -> Status:
        """The process lives."""
        return Status(status="ok")

    @app.get("/ready", responses={503: _PROBLEMS[503]})
    async def ready() -> Status:
        """A model is loaded and warm."""
        loaded()
        return Status(status="ready")

    @app.get("/metrics", dependencies=[Depends(allowed)], responses={401: _PROBLEMS[401]})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        text = generate_latest(service.metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    def loaded() -> Predictor:
        if service.champion.model is None:
            raise HTTPException(503, "the model is still loading; try again")
        return service.champion.model

    return app


class _CountRequests:
    """Middleware that counts requests for a position, however they end."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/locate":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            with self._metrics.inside.track_inprogress():
                await self._app(scope, receive, sent)
        finally:
            self._metrics.requests.labels(status).inc()
            self._metrics.seconds.observe(time.perf_counter() - started)
