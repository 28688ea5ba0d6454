"""The `turboserve` command."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from shared.settings import SettingsError
from turboserve import fleet_commands
from turboserve.client_command import json_option, run_client, url_option
from turboserve.errors import TurboserveError
from turboserve.launch_error import LaunchError
from turboserve.model_command import model
from turboserve.replay_command import replay
from turboserve.service_command import ServiceCommand
from turboserve.simulate_command import simulate
from turboserve.trace_command import trace

_EPILOG = """\b
Examples:
  turboserve up                                   everything on this machine; prints the page's address
  turboserve stream --prompt "a red circle bouncing" --chunks 10 -o out.mp4
  turboserve stream --prompt "a red circle" --then "a blue star@4" --chunks 10 -o out.mp4
  turboserve sessions --url http://video.example:8080
  turboserve workers                              who makes the video, and how busy they are

Every setting of a service is an option of its command and a variable, TURBOSERVE_GATEWAY_PORT for the
gateway's --port.
"""


class _Commands(click.Group):
    """Its help shows the commands by what one wants to do."""

    groups = {  # noqa: RUF012 - never changed
        "Run everything here": ("up",),
        "Use a running turboserve": ("stream", "sessions", "rung"),
        "Run a fleet": ("workers", "fleet", "move", "suspend", "resume", "drain", "explain"),
        "Bring a model": ("model",),
        "Try out policies": ("trace", "simulate", "replay"),
        "Run one service": ("gateway", "placement", "autoscaler", "node", "worker", "text"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for names in self.groups.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, names in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([(n, self.commands[n].get_short_help_str(80)) for n in names])

    def invoke(self, ctx: click.Context) -> Any:
        """Errors that a person can do something about end in a sentence, not in a traceback."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise _failure(str(error)) from None
        except (LaunchError, TurboserveError) as error:
            raise _failure(error.message, error.hint) from None
        except KeyboardInterrupt:
            ctx.exit(130)


def _failure(message: str, hint: str = "") -> click.ClickException:
    return click.ClickException(f"{message}\n{hint}" if hint else message)


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(version("turboserve"), message="turboserve %(version)s")
def main() -> None:
    """Live video from a prompt: serve causal video diffusion models to many users at once."""


@main.command(short_help="NATS, the services and the first worker; Ctrl-C stops all of it.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port of the page and the API; 0: any free one.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0: every one of this machine.",
)
@click.option(
    "--workers", type=click.IntRange(0, 256), default=1, show_default=True, help="Workers that always run."
)
@click.option(
    "--max-workers",
    type=click.IntRange(1, 256),
    help="Most workers that demand may lead to. [one for every two processors, at least two]",
)
@click.option(
    "--policy",
    help="How sessions are placed and workers bought: fixed-rr, fixed-ll, ll-resume, memory-greedy, hpa, "
    "paper or turboserve. [turboserve]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder for everything that is kept: streams, database, logs.",
)
@click.option(
    "--database-url", help="Database to use instead of SQLite in the data folder: postgresql+asyncpg://…"
)
@click.option(
    "--text-weights",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with umT5, for Wan's models: runs the service that encodes their prompts, too.",
)
@click.option(
    "--nats-url",
    envvar="TURBOSERVE_NATS_URL",
    help="A running NATS (with JetStream) to use instead of starting one.",
)
def up(**given: Any) -> None:
    """Run everything on this machine: NATS, placement, autoscaler, gateway, and through the autoscaler the
    workers.

    Prints a line whenever a service's state changes, and the page's address once a picture can be had. What
    is in the data folder is found again by the next start. Ctrl-C stops everything in order.
    """
    from turboserve import launcher

    launcher.up(launcher.Options(**given))


@main.command(short_help="Open a session, watch it, and keep it as an MP4.")
@click.option("--prompt", required=True, help="What the video shows.")
@click.option(
    "--then",
    "then",
    multiple=True,
    metavar="PROMPT@CHUNK",
    help="Change the prompt at a chunk (12 frames each); may be given several times.",
)
@click.option("--chunks", type=click.IntRange(1), help="Stop after so many chunks. [at Ctrl-C]")
@click.option("--seed", type=click.IntRange(0), help="The same seed and prompts make the same video.")
@click.option("--model", default="", help="Name of the model. [the server's]")
@click.option("--rung", default="", help="A named quality, like fast. [the model's default]")
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    show_default=True,
    help="Higher ones are placed before lower ones while not all can be.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="MP4 file to write.")
@url_option
def stream(url: str | None, then: tuple[str, ...], **given: Any) -> None:
    """Open a session and watch it; with -o keep it as an MP4, without encoding it again.

    Ctrl-C closes the session and finishes the file.

    \b
      turboserve stream --prompt "a red circle bouncing" --then "a blue star@4" --chunks 10 -o out.mp4
    """
    from turboserve import stream_command

    request = stream_command.Request(url=url, then=[stream_command.parse_then(t) for t in then], **given)
    run_client(lambda console: stream_command.stream(request, console))


@main.command(short_help="List the sessions of a running turboserve, newest first.")
@click.option("--all", "ended", is_flag=True, help="Ended ones too.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many."
)
@json_option
@url_option
def sessions(url: str | None, ended: bool, limit: int, as_json: bool) -> None:
    """List sessions, newest first: those that run, or with --all every one."""
    from turboserve.sessions_command import sessions as show

    run_client(lambda console: show(url, limit, live=not ended, as_json=as_json, console=console))


@main.command(short_help="Change a session's quality while it plays.")
@click.argument("session")
@click.argument("name", metavar="RUNG")
@url_option
def rung(url: str | None, session: str, name: str) -> None:
    """Have the chunks of SESSION that have not started made at RUNG, one of the qualities its model names
    (fewer steps, a shorter window, other numbers); "" is the model's default.

    \b
      turboserve rung SESSION fast
    """
    from turboserve import operations_command

    run_client(lambda console: operations_command.rung(url, session, name, console=console))


for _command in (*fleet_commands.COMMANDS, model, trace, simulate, replay):
    main.add_command(_command)
for _name, _help in {
    "gateway": "The front door: HTTP, WebSocket and the page.",
    "placement": "Keeps the sessions and decides which worker has which.",
    "autoscaler": "Starts and releases workers as demand goes.",
    "node": "A worker for each GPU of this machine; hands over and ends when told to.",
    "worker": "Makes the video: one device, one model, many sessions.",
    "text": "Encodes prompts for the models that need it: Wan with published weights.",
}.items():
    main.add_command(ServiceCommand(_name, _help))
