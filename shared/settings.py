"""Settings of a process: frozen structs filled from the environment and the command line, checked once at
start.

A field `port` of the gateway's settings is `TURBOSERVE_GATEWAY_PORT` in the environment and `--port` on its
command line (which wins). Fields of `ServiceSettings` belong to every service and carry no service name:
`TURBOSERVE_NATS_URL`. A variable that begins with `TURBOSERVE_` and names no setting stops the process, with
its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from shared.ids import DEFAULT_CELL, NAME_PATTERN

SERVICES = ("gateway", "placement", "autoscaler", "node", "worker", "text")
_PREFIX = "TURBOSERVE_"
_FOREIGN = frozenset({"TURBOSERVE_URL", "TURBOSERVE_TEST_SEED", "TURBOSERVE_WAN"})
"""The client library's, the test run's, the Wan models'."""

Port = Annotated[int, Meta(ge=0, le=65535)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=86_400)]
Name = Annotated[str, Meta(pattern=rf"\A{NAME_PATTERN}\Z")]
Ratio = Annotated[float, Meta(ge=0, le=1)]


class SettingsError(ValueError):
    """A setting that is unknown or mistyped. The message names it."""


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every service takes.

    `nats_wait_s`: how long to try to reach NATS at start before giving up. `metrics_port` 0: no Prometheus
    endpoint (the gateway serves its own). `trace_sample_ratio`: share of sessions traced once tracing is on.
    `parent_pid`: stop when this process is gone (0: never); the local launcher sets it.
    """

    nats_url: str = "nats://127.0.0.1:4222"
    nats_wait_s: PositiveSeconds = 30.0
    cell: Name = DEFAULT_CELL
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    metrics_port: Port = 0
    metrics_host: str = "127.0.0.1"
    trace_sample_ratio: Ratio = 1.0
    parent_pid: Annotated[int, Meta(ge=0)] = 0


S = TypeVar("S", bound=ServiceSettings)


def load(
    struct: type[S],
    service: str,
    environ: Mapping[str, str],
    given: Mapping[str, object],
) -> S:
    """Settings of `service` from `environ`, overridden by what was `given` on the command line (None: not
    given).

    Raises `SettingsError`.
    """
    variables = _variables(struct, service)
    _refuse_unknown(variables, service, environ)
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for variable, field in variables.items():
        if variable in environ:
            values[field], sources[field] = environ[variable], variable
    for field, value in given.items():
        if value is not None:
            values[field], sources[field] = value, "--" + field.replace("_", "-")
    return _convert(struct, values, sources)


def _variables(struct: type[S], service: str) -> dict[str, str]:
    """Variable name → field name."""
    common = set(ServiceSettings.__struct_fields__)
    own = _PREFIX + service.upper() + "_"
    return {(_PREFIX if f in common else own) + f.upper(): f for f in struct.__struct_fields__}


def _refuse_unknown(variables: Mapping[str, str], service: str, environ: Mapping[str, str]) -> None:
    others = tuple(f"{_PREFIX}{name.upper()}_" for name in SERVICES if name != service)
    for name in sorted(environ):
        if not name.startswith(_PREFIX) or name in variables or name in _FOREIGN or name.startswith(others):
            continue
        close = _meant(name, variables)
        hint = (
            f"; did you mean {close}?" if close else f"; the {service} knows {', '.join(sorted(variables))}"
        )
        raise SettingsError(f"unknown setting {name} in the environment{hint}")


def _meant(name: str, variables: Mapping[str, str]) -> str:
    """The name that was probably meant, "" if none is near. What all names share says nothing."""
    rest = name.removeprefix(_PREFIX)
    token, _, setting = rest.partition("_")
    known = {variable.removeprefix(_PREFIX) for variable in (*variables, *_FOREIGN)}
    services = difflib.get_close_matches(token.lower(), SERVICES, n=1)
    known |= {f"{service.upper()}_{setting}" for service in services if service.upper() != token}
    close = difflib.get_close_matches(rest, known, n=1)
    return _PREFIX + close[0] if close else ""


def _convert(struct: type[S], values: dict[str, object], sources: Mapping[str, str]) -> S:
    types = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for field, value in values.items():
        try:
            msgspec.convert(value, types[field], strict=False)
        except msgspec.ValidationError as error:
            problem = str(error).partition(" - at ")[0]
            raise SettingsError(f"setting {sources[field]}={value!r} is not valid: {problem}") from None
    try:
        return msgspec.convert(values, struct, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings don't fit together: {error}") from None
