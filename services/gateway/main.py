"""The gateway process: `turboserve gateway`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from services.gateway.app import make_app
from services.gateway.cells import Cell, Cells
from services.gateway.commands import Placement
from services.gateway.feed import Sources
from services.gateway.feeds import Feeds
from services.gateway.fleet import FleetWatch
from services.gateway.gateway import Gateway
from services.gateway.server import listen, make_server
from services.gateway.settings import GatewaySettings
from shared import process
from shared.chunk_log import ChunkLog
from shared.decision_log import DecisionLog
from shared.settings import SettingsError, load

EXIT_USAGE = 2


def main(given: Mapping[str, object]) -> int:
    """Run until told to stop. `given`: settings from the command line. Returns the exit code."""
    try:
        settings = load(GatewaySettings, "gateway", os.environ, given)
    except SettingsError as error:
        print(f"turboserve gateway: {error}", file=sys.stderr)
        return EXIT_USAGE
    return process.run("gateway", settings, serve)


async def serve(running: process.Process[GatewaySettings]) -> None:
    """The body of the process: listen, serve, and let everybody go in order."""
    settings = running.settings
    listener = listen(settings.host, settings.port, settings.viewer_silent_s)
    gateway = await assemble(running)
    server = make_server(make_app(gateway), settings.viewer_silent_s)
    http = running.spawn("http", server.serve([listener]))
    host, port = listener.getsockname()[:2]
    await running.ready(f"http://{host}:{port}")
    await running.stopping.wait()
    await running.say("stopping")
    server.should_exit = True
    await http


async def assemble(running: process.Process[GatewaySettings]) -> Gateway:
    """The gateway's parts, joined."""
    cells = [await _cell(running, name) for name in running.settings.cell_names]
    return Gateway(running.settings, Cells(cells))


async def _cell(running: process.Process[GatewaySettings], name: str) -> Cell:
    settings, bus = running.settings, running.bus
    log = ChunkLog(bus, name)
    placement = Placement(bus, name, settings.tenant, settings.request_timeout_s)
    sources = Sources(running.instance, bus, log, placement, settings.poll_s, settings.refresh_s)
    fleet = FleetWatch(bus, name, settings.max_prompt_chars)
    await fleet.start()
    return Cell(name, placement, Feeds(sources), fleet, DecisionLog(bus, name))
