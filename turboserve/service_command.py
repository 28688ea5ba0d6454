"""`turboserve gateway` and its like: one command per service, its options made from the service's settings.

Nothing of a service is imported before its command is used, and its settings alone for `--help`.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from importlib import import_module
from typing import Any

import click
import msgspec

from shared.settings import ServiceSettings


class ServiceCommand(click.Command):
    """Runs `services.<name>.main.main` with the options that were given."""

    def __init__(self, name: str, help: str) -> None:  # noqa: A002 - click's name for it
        super().__init__(name, help=help, callback=self._run)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self.params:
            self.params = list(_options(settings_of(str(self.name))))
        return super().get_params(ctx)

    def _run(self, **given: object) -> None:
        main = import_module(f"services.{self.name}.main").main
        sys.exit(main(given))


def settings_of(service: str) -> type[ServiceSettings]:
    """The settings struct of a service, by the name that all of them follow."""
    struct: type[ServiceSettings] = getattr(
        import_module(f"services.{service}.settings"), f"{service.title()}Settings"
    )
    return struct


def _options(struct: type[ServiceSettings]) -> typing.Iterator[click.Option]:
    """The service's own settings first, then those of every service."""
    texts = _texts(ServiceSettings) | _texts(struct)
    common = ServiceSettings.__struct_fields__
    fields = sorted(msgspec.structs.fields(struct), key=lambda field: field.name in common)
    for field in fields:
        yield click.Option(
            ["--" + field.name.replace("_", "-"), field.name],
            metavar=_metavar(field.type),
            help=_help(texts.get(field.name, ""), field.default),
        )


def _texts(struct: type[ServiceSettings]) -> dict[str, str]:
    """What the struct's docstring says of each field: the text that follows its name in backquotes."""
    doc = " ".join((struct.__doc__ or "").split())
    found = re.findall(r"(?:^|(?<=[.;] ))`(\w+)`(?:(?: (\S{1,12}))?:)? (.*?)(?=[.;] `\w+`|$)", doc)
    return {name: ": ".join(filter(None, (_value(value), text.rstrip(". ")))) for name, value, text in found}


def _value(value: str) -> str:
    return "not given" if value in ('""', "None") else value


def _help(text: str, default: object) -> str:
    default = str(default).lower() if isinstance(default, bool) else default
    shown = "" if default in (None, "", msgspec.NODEFAULT) else f"[{default}]"
    return " ".join(filter(None, (text[:1].upper() + text[1:], shown)))


def _metavar(kind: Any) -> str:
    """What to type: the choices of a Literal, or the name of a plain type."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _metavar(typing.get_args(kind)[0])
    if origin is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if origin in (types.UnionType, typing.Union):
        return "|".join(_metavar(k) for k in typing.get_args(kind) if k is not type(None))
    return {int: "NUMBER", float: "NUMBER", bool: "true|false"}.get(kind, "TEXT")
