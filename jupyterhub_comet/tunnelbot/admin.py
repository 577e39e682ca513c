"""/healthz, /readyz and /metrics, on a port of their own for kubelet and Prometheus."""

from collections.abc import Callable

from aiohttp import web

from jupyterhub_comet.tunnelbot.metrics import Metrics


async def start_admin(
    host: str, port: int, problems: Callable[[], list[str]], metrics: Metrics
) -> web.AppRunner:
    """Start to answer; the caller ends it by ``cleanup()``. Raises OSError.

    Args:
        problems: what keeps the gateway from taking new tunnels, a sentence each; empty: ready.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="alive\n")  # that the loop answers is the whole test

    async def readyz(_: web.Request) -> web.Response:
        found = problems()
        if found:
            return web.Response(status=503, text="".join(f"not ready: {p}\n" for p in found))
        return web.Response(text="ready\n")

    async def page(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", page)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
