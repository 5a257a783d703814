"""The routes: JSON in, one version's answer out. Knows HTTP and nothing of how items are found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException

from genrec.config.serving import ServeConfig
from genrec.serving import answers, binary_tensors, page
from genrec.serving.batcher import Batcher, BusyError, ClosedError
from genrec.serving.gate import Gate
from genrec.serving.inference_protocol import (
    InferenceRequest,
    InferenceResponse,
    MalformedError,
    describe,
    to_outputs,
    to_requests,
)
from genrec.serving.messages import (
    CountedTag,
    ErrorResponse,
    Reason,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    TagsResponse,
    TitledItem,
    TitlesResponse,
)
from genrec.serving.metrics import Metrics
from genrec.serving.runtime import RequestError
from genrec.serving.swap import Version, Versions

MEANINGS = {
    400: "the body cannot be read",
    401: "the key is missing or wrong",
    404: "there is no such model or version",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is compressed",
    422: "the request is not as described, or beyond a limit",
    500: "the generator failed",
    503: "too many requests wait, or the server is about to end",
    504: "it took too long",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text} for status, text in MEANINGS.items()
}

# Recent FastAPI carries OpenTelemetry, and sends where the environment says if the environment says so. Ours does not.
NO_TELEMETRY: Any = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}

logger = logging.getLogger(__name__)


class Service:
    """What the routes share: the version that answers, the queue, the counters and the limits."""

    def __init__(self, config: ServeConfig, versions: Versions) -> None:
        self.config = config
        self.versions = versions
        self.batcher: Batcher[Version] | None = None
        self.metrics = Metrics(versions, lambda: 0 if self.batcher is None else self.batcher.waiting)

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return self.batcher is not None

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Queue and look-out for swapped bundles, as long as the server lives; then what waits is answered."""
        config = self.config
        self.batcher = Batcher(
            lambda: self.versions.current,
            max_batch=config.max_batch,
            max_wait_ms=config.max_wait_ms,
            max_queue=config.max_queue,
            observe=self.metrics.batches.observe,
        )
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
            batcher, self.batcher = self.batcher, None
            await batcher.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.config.check_s)
            outcome = await asyncio.to_thread(self.versions.refresh)
            if outcome is not None:
                self.metrics.swaps.labels(outcome).inc()

    async def ask(self, requests: Sequence[answers.Request]) -> tuple[Version, list[answers.Answer]]:
        """The answers, all from one version; refusals become HTTP errors."""
        self._check_limits(requests)
        try:
            if self.batcher is None:
                raise ClosedError
            async with asyncio.timeout(self.config.timeout_s):
                version, found = await self.batcher.submit(requests)
        except BusyError as error:
            raise HTTPException(503, "too many requests wait; try again later", {"Retry-After": "1"}) from error
        except ClosedError as error:
            raise HTTPException(503, "the server is about to end") from error
        except RequestError as error:  # a version with other limits came between the check and the answer
            raise HTTPException(422, str(error)) from error
        except TimeoutError as error:
            raise HTTPException(504, f"no answer within {self.config.timeout_s:g} s") from error
        self.metrics.unknown.inc(sum(answer.num_unknown for answer in found))
        self.metrics.unknown_tags.inc(sum(answer.num_unknown_tags for answer in found))
        self.metrics.empty.inc(sum(not answer.item_ids for answer in found))
        return version, found

    def _check_limits(self, requests: Sequence[answers.Request]) -> None:
        most = min(self.config.max_k, self.versions.current.max_k)
        longest = self.config.max_history
        for request in requests:
            if not 1 <= request.k <= most:
                raise HTTPException(422, f"k: expected 1 to {most}, found {request.k}")
            for name in ("history", "exclude", "allow", "allow_tags", "deny_tags"):
                given = len(getattr(request, name) or ())
                if given > longest:
                    what = "tags" if name.endswith("tags") else "items"
                    raise HTTPException(422, f"{name}: expected at most {longest} {what}, found {given}")


def build_app(config: ServeConfig, versions: Versions, *, key: str | None = None) -> FastAPI:
    """The application; its lifespan owns the queue and the worker."""
    service = Service(config, versions)
    app = FastAPI(
        title="genrec",
        description="A candidate generator: histories of item ids in, recommended item ids out.",
        version="1",
        docs_url=None,  # these pages fetch their scripts from elsewhere
        redoc_url=None,
        lifespan=service.running,
        responses=RESPONSES,
        telemetry=NO_TELEMETRY,
    )
    app.state.service = service
    _add_recommend(app, service)
    _add_operations(app, service)
    _add_inference(app, service)
    if config.page:
        _add_page(app, service)
    _add_errors(app)

    def observe(route: str, status: int, seconds: float) -> None:
        service.metrics.seconds.labels(route, status).observe(seconds)
        if status >= 400:
            service.metrics.errors.labels(status).inc()

    app.add_middleware(binary_tensors.BinaryTensors)
    app.add_middleware(Gate, max_body=config.max_body_bytes, timeout_s=config.timeout_s, key=key, observe=observe)
    return app


def _add_recommend(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model_exclude_none=True)
    async def recommend(request: RecommendRequest) -> RecommendResponse:
        """The best items for a history."""
        asked = answers.Request(
            tuple(request.history),
            request.k,
            tuple(request.exclude),
            None if request.allow is None else tuple(request.allow),
            explain=request.explain,
            allow_tags=None if request.allow_tags is None else tuple(request.allow_tags),
            deny_tags=tuple(request.deny_tags),
            exclude_seen=request.exclude_seen,
        )
        version, (found,) = await service.ask([asked])
        reasons = found.reasons or (None,) * len(found.item_ids)
        return RecommendResponse(
            items=[_item(version, *row) for row in zip(found.item_ids, found.scores, reasons, strict=True)],
            model_version=version.model,
            catalogue_version=version.catalogue,
            num_unknown=found.num_unknown,
            num_unknown_tags=found.num_unknown_tags,
            is_popular=found.is_popular,
        )

    @app.get("/tags")
    def tags(
        q: Annotated[str, Query(max_length=200, description="words, all of which are in the tag")] = "",
        limit: Annotated[int, Query(ge=1, le=1000, description="tags wanted")] = 50,
    ) -> TagsResponse:
        """Tags that requests can name, as column=value, with the number of their items."""
        counts = service.versions.current.tags
        found = page.search_titles({tag: tag for tag in counts}, q, limit=limit)
        return TagsResponse(tags=[CountedTag(tag=tag, num_items=counts[tag]) for tag in found])


def _item(version: Version, item: str, score: float, reasons: tuple[tuple[str, float], ...] | None) -> RecommendedItem:
    because = None
    if reasons is not None:
        because = [Reason(item_id=source, title=version.title(source), gain=gain) for source, gain in reasons]
    return RecommendedItem(item_id=item, score=score, title=version.title(item), because=because)


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters for Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether requests are taken; 503 if not."""
        if not service.is_ready:
            raise HTTPException(503, "not ready")
        return {"ready": True}


def _add_inference(app: FastAPI, service: Service) -> None:
    def check(name: str, version: str | None) -> Version:
        current = service.versions.current
        if name != service.config.model_name or version not in (None, current.model):
            raise HTTPException(404, f"expected model {service.config.model_name!r}, version {current.model!r}")
        return current

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        """Name and version of the server."""
        return {"name": "genrec", "version": app.version, "extensions": ["binary_tensor_data"]}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def model(name: str, version: str | None = None) -> dict[str, Any]:
        """The tensors that the model takes and gives."""
        return describe(name, check(name, version).model)

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """Whether the model takes requests; 503 if not."""
        check(name, version)
        if not service.is_ready:
            raise HTTPException(503, "not ready")
        return {"name": name, "ready": True}

    options: dict[str, Any] = {
        "response_model": InferenceResponse,
        "response_model_exclude_none": True,
        "responses": {200: {"content": {binary_tensors.BINARY: {}}}},
    }

    @app.post("/v2/models/{name}/infer", **options)
    @app.post("/v2/models/{name}/versions/{version}/infer", **options)
    async def infer(name: str, inference: InferenceRequest, version: str | None = None) -> Any:
        """The best items for a batch of histories, all from one version."""
        check(name, version)
        try:
            requests = to_requests(inference, max_rows=service.config.max_rows)
            used, found = await service.ask(requests)
            if version not in (None, used.model):
                raise HTTPException(404, f"version {version!r} was replaced by {used.model!r}")
            outputs = to_outputs(found, inference.outputs)
        except MalformedError as error:
            raise HTTPException(422, str(error)) from error
        response = InferenceResponse(
            model_name=name,
            model_version=used.model,
            id=inference.id,
            parameters={"catalogue_version": used.catalogue},
            outputs=outputs,
        )
        return _in_wanted_form(inference, response)


def _in_wanted_form(inference: InferenceRequest, response: InferenceResponse) -> InferenceResponse | Response:
    binary = binary_tensors.wanted_as_bytes(inference, [output.name for output in response.outputs])
    if not binary:
        return response
    body, headers = binary_tensors.to_body(response, binary)
    return Response(body, headers=headers)


def _add_page(app: FastAPI, service: Service) -> None:
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def start() -> HTMLResponse:
        return HTMLResponse(page.HTML, headers=page.HEADERS)

    @app.get("/titles", response_model_exclude_none=True)
    def titles(
        q: Annotated[str, Query(max_length=200, description="words, all of which are in the title")] = "",
        limit: Annotated[int, Query(ge=1, le=50, description="items wanted")] = 10,
    ) -> TitlesResponse:
        """Items by words of their titles, or of their ids where the bundle has no titles."""
        version = service.versions.current
        texts = version.titles or {item: item for item in version.generator.item_ids}
        found = page.search_titles(texts, q, limit=limit)
        return TitlesResponse(items=[TitledItem(item_id=item, title=version.title(item)) for item in found])


def _add_errors(app: FastAPI) -> None:
    """Every error is one line of JSON. What was sent is not sent back."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": ascii_line(_said(error.errors()[0]))}, 422)

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> JSONResponse:
        return JSONResponse({"error": ascii_line(str(error.detail))}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"the server failed: {type(error).__name__}"}, 500)


def _said(error: Mapping[str, Any]) -> str:
    """What pydantic found, for somebody who does not know it."""
    place = ".".join(str(part) for part in error["loc"] if part != "body")
    if error["type"] == "json_invalid":
        return f"the body is no JSON: {error['ctx']['error']}, at character {place}"
    if error["type"] == "model_attributes_type" and not place:
        return "body: expected a JSON object, sent with the header Content-Type: application/json"
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no such key; /openapi.json tells which there are"
    return f"{place or 'body'}: {error['msg']}"


def ascii_line(text: str) -> str:
    """One short line that any encoding can carry.

    >>> ascii_line("a\\ud800\\nb")
    'a\\\\ud800 b'
    """
    return " ".join(text.encode("ascii", "backslashreplace").decode().split())[:500]
