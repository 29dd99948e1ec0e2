"""What an administrator may tell a running server: drain, and read your configuration again.

Keys are made by `qwenops keys` and never over HTTP, so that a stolen admin key cannot make others.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from qwenops.serve.auth import AuthClass, Principal, guard
from qwenops.serve.lifecycle import Lifecycle
from qwenops.serve.reload import Reloader

_ADMIN = Annotated[Principal, Depends(guard(AuthClass.ADMIN))]


def admin_router(lifecycle: Lifecycle, reloader: Reloader) -> APIRouter:
    """Return the routes for administrators."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.post("/drain", status_code=202, summary="Stop without losing a request")
    async def drain(_: _ADMIN) -> JSONResponse:
        lifecycle.drain()
        options = reloader.options
        return JSONResponse(
            {
                "state": lifecycle.state.value,
                "drain_delay_s": options.drain_delay_s,
                "drain_timeout_s": options.drain_timeout_s,
            },
            status_code=202,
        )

    @router.post("/reload", summary="Read the configuration again and take its live options over")
    async def reload(_: _ADMIN, dry_run: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 -- a query parameter
        return (await reloader.reload(dry_run=dry_run)).as_json()

    return router
