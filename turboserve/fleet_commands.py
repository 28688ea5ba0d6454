"""The commands of those who run a fleet: what there is, what is done about it, and why."""

from __future__ import annotations

from typing import Any

import click

from turboserve.client_command import json_option, run_client, url_option

_session = click.argument("session")


@click.command(short_help="List the workers of a running turboserve.")
@json_option
@url_option
def workers(url: str | None, as_json: bool) -> None:
    """List the workers, what they have to do, and how their devices are.

    active 2/4: two sessions, of at most four that keep up with real time. paused: sessions it holds that
    make nothing now. suspended: sessions whose state has left the device's memory for the host's. Of the
    device is shown what it tells.
    """
    from turboserve.workers_command import workers as show

    run_client(lambda console: show(url, as_json=as_json, console=console))


@click.command(short_help="Have another worker go on with a session.")
@_session
@click.option("--to", default="", metavar="WORKER", help="The worker to go on. [the one with most room]")
@json_option
@url_option
def move(url: str | None, session: str, to: str, as_json: bool) -> None:
    """Move SESSION to another worker, state and all; its viewers see neither a gap nor a repeat.

    Says what came of it and how long each phase took. Exits with 1 if the session stays where it is.

    \b
      turboserve sessions                             which sessions there are
      turboserve move SESSION --to worker-2
    """
    from turboserve import operations_command

    run_client(lambda console: operations_command.move(url, session, to, as_json=as_json, console=console))


@click.command(short_help="Pause a session and free its slot on the device.")
@_session
@json_option
@url_option
def suspend(url: str | None, session: str, as_json: bool) -> None:
    """Pause SESSION and take its state out of the device's memory, so that another session can have its
    slot. It stays so until it is resumed, by you or by its user.

    Says how long each phase took. Exits with 1 if the state is still in the device's memory.
    """
    from turboserve import operations_command

    run_client(lambda console: operations_command.suspend(url, session, as_json=as_json, console=console))


@click.command(short_help="Bring a suspended session back.")
@_session
@json_option
@url_option
def resume(url: str | None, session: str, as_json: bool) -> None:
    """Bring the state of SESSION back into a device's memory, its worker's or, if another one is better, that
    one's, and let it go on where it was.

    Says how long each phase took. Exits with 1 if it doesn't go on now, because no worker has room.
    """
    from turboserve import operations_command

    run_client(lambda console: operations_command.resume(url, session, as_json=as_json, console=console))


@click.command(short_help="Take a worker out of service; its sessions go on elsewhere.")
@click.argument("worker")
@click.option("--force", is_flag=True, help="Even if no other worker could take its sessions: they wait.")
@json_option
@url_option
def drain(url: str | None, worker: str, force: bool, as_json: bool) -> None:
    """Take WORKER out of service. Nothing is placed there any more, its sessions go on at other workers, and
    it stops.
    """
    from turboserve.workers_command import drain as run

    run_client(lambda console: run(url, worker, force=force, as_json=as_json, console=console))


@click.command(short_help="Say what was decided about sessions and workers, and why.")
@click.argument("decision", required=False)
@click.option("--session", default="", metavar="SESSION", help="Those about this session.")
@click.option(
    "--last", type=click.IntRange(1, 200), default=10, show_default=True, help="So many of the newest ones."
)
@click.option("--again", is_flag=True, help="Have the policy decide again, and compare.")
@json_option
@url_option
def explain(
    url: str | None, decision: str | None, session: str, last: int, again: bool, as_json: bool
) -> None:
    """Say what placement or the autoscaler saw when it took DECISION, what it decided and why; or list the
    newest decisions.

    --again takes the decision again from what was recorded, with the same policy and settings. Exits with 1
    if the answer is another one.

    \b
      turboserve explain --session SESSION            what was decided about a session
      turboserve explain p-3k9d… --again              one decision, and whether it would be taken again
    """
    from turboserve import explain_command as command

    if decision and session:
        raise click.UsageError("name a decision, or a session with --session; not both")
    how: dict[str, bool] = {"again": again, "as_json": as_json}
    if decision:
        run_client(lambda console: command.explain(url, decision, **how, console=console))
    else:
        run_client(lambda console: command.recent(url, last, session, **how, console=console))


_count = click.IntRange(min=0)


@click.command(short_help="Show the fleet's size and why, or set its bounds.")
@click.option("--min", "minimum", type=_count, help="Workers that run even when nobody watches.")
@click.option("--max", "maximum", type=_count, help="Never more than so many.")
@click.option("--spare", type=_count, help="Ready workers to keep beside those needed.")
@click.option("--freeze/--unfreeze", "frozen", default=None, help="Keep the size as it is.")
@click.option("--dry-run/--live", "dry_run", default=None, help="Only say what would be done.")
@json_option
@url_option
def fleet(url: str | None, as_json: bool, **asked: Any) -> None:
    """Show how many workers there should be and why, after setting what is given. It is kept over restarts
    of the autoscaler.

    \b
      turboserve fleet --min 2 --max 8                the bounds of what the autoscaler starts
      turboserve fleet --freeze                       who crashes is replaced, nothing else changes
      turboserve fleet --dry-run                      decide and say so, but do nothing
    """
    from turboserve import fleet_command

    run_client(lambda console: fleet_command.fleet(url, asked, as_json=as_json, console=console))


COMMANDS = (workers, fleet, move, suspend, resume, drain, explain)
