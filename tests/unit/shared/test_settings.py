"""Settings: what is unknown or mistyped stops the process with its name; the command line wins."""

from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from shared.settings import Port, ServiceSettings, SettingsError, load


class DoorSettings(ServiceSettings, frozen=True, kw_only=True):
    port: Port = 8080
    host: str = "127.0.0.1"
    max_viewers: Annotated[int, Meta(ge=1)] = 100
    trust_trace_context: bool = False


def door(environ: dict[str, str], **given: object) -> DoorSettings:
    return load(DoorSettings, "gateway", environ, given)


def test_without_anything_given_the_defaults_hold() -> None:
    assert door({"PATH": "/bin", "HOME": "/"}) == DoorSettings()


def test_own_settings_carry_the_service_and_shared_ones_do_not() -> None:
    settings = door(
        {"TURBOSERVE_GATEWAY_PORT": "9000", "TURBOSERVE_CELL": "left", "TURBOSERVE_METRICS_PORT": "0"}
    )
    assert (settings.port, settings.cell, settings.metrics_port) == (9000, "left", 0)


def test_the_command_line_wins_and_none_means_not_given() -> None:
    environ = {"TURBOSERVE_GATEWAY_PORT": "9000", "TURBOSERVE_GATEWAY_HOST": "0.0.0.0"}
    settings = door(environ, port=9001, host=None)
    assert (settings.port, settings.host) == (9001, "0.0.0.0")


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_yes_and_no_are_understood(text: str, value: bool) -> None:
    assert door({"TURBOSERVE_GATEWAY_TRUST_TRACE_CONTEXT": text}).trust_trace_context is value


@pytest.mark.parametrize(
    "variable", ["TURBOSERVE_GATEWAY_PROT", "TURBOSERVE_GATEWAY_NATS_URL", "TURBOSERVE_XYZZY"]
)
def test_an_unknown_variable_stops_with_its_name(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {variable} "):
        door({variable: "1"})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("TURBOSERVE_GATEWAY_PROT", "TURBOSERVE_GATEWAY_PORT"),
        ("TURBOSERVE_GATWAY_PORT", "TURBOSERVE_GATEWAY_PORT"),
        ("TURBOSERVE_WROKER_DEVICE", "TURBOSERVE_WORKER_DEVICE"),
        ("TURBOSERVE_NATS_ULR", "TURBOSERVE_NATS_URL"),
        ("TURBOSERVE_URLL", "TURBOSERVE_URL"),
        ("TURBOSERVE_LOGLEVEL", "TURBOSERVE_LOG_LEVEL"),
    ],
)
def test_a_misspelt_variable_gets_a_suggestion(typed: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {typed} .*; did you mean {meant}\\?"):
        door({typed: "1"})


def test_what_resembles_nothing_gets_the_list() -> None:
    with pytest.raises(SettingsError, match=r"TURBOSERVE_XYZZY .*; the gateway knows TURBOSERVE_CELL, "):
        door({"TURBOSERVE_XYZZY": "1"})


def test_variables_of_other_services_and_tools_are_left_alone() -> None:
    environ = {"TURBOSERVE_WORKER_ANYTHING": "x", "TURBOSERVE_URL": "http://h", "TURBOSERVER_X": "y"}
    assert door(environ) == DoorSettings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TURBOSERVE_GATEWAY_PORT", "eighty"),
        ("TURBOSERVE_GATEWAY_PORT", "65536"),
        ("TURBOSERVE_GATEWAY_PORT", ""),
        ("TURBOSERVE_GATEWAY_MAX_VIEWERS", "0"),
        ("TURBOSERVE_GATEWAY_TRUST_TRACE_CONTEXT", "perhaps"),
        ("TURBOSERVE_NATS_WAIT_S", "-1"),
        ("TURBOSERVE_NATS_WAIT_S", "nan"),
        ("TURBOSERVE_LOG_LEVEL", "loud"),
        ("TURBOSERVE_CELL", "Left.Right"),
    ],
)
def test_a_mistyped_value_stops_with_its_name(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable}='{value}'"):
        door({variable: value})


def test_a_mistyped_option_is_named_as_the_user_typed_it() -> None:
    with pytest.raises(SettingsError, match="--max-viewers=0"):
        door({}, max_viewers=0)


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        door({}).port = 1  # type: ignore[misc]


class PairSettings(ServiceSettings, frozen=True, kw_only=True):
    minimum: int = 1
    maximum: int = 4

    def __post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise ValueError("minimum is above maximum")


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(SettingsError, match="minimum is above maximum"):
        load(PairSettings, "autoscaler", {"TURBOSERVE_AUTOSCALER_MINIMUM": "9"}, {})


def test_every_shared_setting_has_a_default() -> None:
    assert all(not field.required for field in msgspec.structs.fields(ServiceSettings))
