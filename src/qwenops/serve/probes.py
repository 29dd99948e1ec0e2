"""Is it alive, may it have requests, how far is its start: answered at once, from memory, in front of no queue."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse

from qwenops.observe.metrics import CONTENT_TYPE, Metrics
from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.lifecycle import Lifecycle, State

_PROBE = Annotated[Principal, Depends(guard(AuthClass.PROBE))]
_METRICS = Annotated[Principal, Depends(guard(AuthClass.METRICS))]
_UNAVAILABLE = 503


def probe_router(lifecycle: Lifecycle) -> APIRouter:
    """Return the routes that kubelets, balancers and systemd ask."""
    router = APIRouter(tags=["probes"])
    down: dict[int | str, dict[str, Any]] = {_UNAVAILABLE: {"description": "No; the body says why."}}

    @router.get("/livez", responses=down, summary="Whether the process can still help itself")
    async def livez(_: _PROBE) -> JSONResponse:
        hopeless = lifecycle.is_hopeless
        return _answer(ok=not hopeless, body={"reasons": lifecycle.reasons() if hopeless else []})

    @router.get("/readyz", responses=down, summary="Whether requests should be sent here")
    async def readyz(_: _PROBE) -> JSONResponse:
        return _readiness(lifecycle)

    @router.get("/health", responses=down, summary="The same as /readyz")
    async def health(_: _PROBE) -> JSONResponse:
        return _readiness(lifecycle)

    @router.get("/startupz", responses=down, summary="How far the start has come")
    async def startupz(_: _PROBE) -> JSONResponse:
        progress = lifecycle.progress
        body: dict[str, Any] = {"state": lifecycle.state.value}
        if lifecycle.state is State.STARTING:
            eta_s = lifecycle.eta_s
            body |= {
                "phase": progress.phase.value,
                "progress": round(progress.ratio, 4),
                "message": str(progress.message),
                "elapsed_s": round(lifecycle.starting_s, 1),
                "eta_s": None if eta_s is None else round(eta_s, 1),
            }
        return _answer(ok=lifecycle.is_started, body=body)

    return router


def metrics_router(metrics: Metrics) -> APIRouter:
    """Return the route that Prometheus scrapes."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def scrape(_: _METRICS) -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE)

    return router


def _readiness(lifecycle: Lifecycle) -> JSONResponse:
    reasons = lifecycle.reasons()
    body = {
        "state": lifecycle.readiness,
        "reasons": [str(each) for each in reasons],
        "warnings": [str(each) for each in lifecycle.warnings],
    }
    return _answer(ok=not reasons, body=body)


def _answer(*, ok: bool, body: dict[str, Any]) -> JSONResponse:
    return JSONResponse(
        {"status": "ok" if ok else "unavailable", **body},
        status_code=200 if ok else _UNAVAILABLE,
        headers={"cache-control": "no-store"},
    )
