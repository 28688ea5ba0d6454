"""The command: its help, and errors that are sentences."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from shared.settings import SERVICES, ServiceSettings
from turboserve.cli import main
from turboserve.service_command import settings_of
from turboserve.stream_command import parse_then


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environ)


def refused(result: Result, *words: str) -> None:
    """A sentence on stderr that has these words, and no traceback."""
    assert result.exit_code not in (0, None)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output


def test_help_names_every_command_under_what_it_is_for() -> None:
    text = run("--help").stdout
    assert text.index("Run everything here") < text.index("Use a running turboserve") < text.index("Run one")
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.strip()]
    assert set(main.commands) <= set(listed)
    assert "turboserve stream --prompt" in text


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_an_option_for_each_of_its_settings(service: str) -> None:
    text = run(service, "--help").stdout
    for field in settings_of(service).__struct_fields__:
        assert "--" + field.replace("_", "-") in text


def test_help_says_what_settings_mean_and_their_defaults() -> None:
    text = " ".join(run("autoscaler", "--help").stdout.split())
    assert "Workers that run even when nobody watches [1]" in text
    assert "How long to try to reach NATS at start before giving up [30.0]" in text
    gateway = main.commands["gateway"]
    own = set(settings_of("gateway").__struct_fields__) - set(ServiceSettings.__struct_fields__)
    options = [option for option in gateway.get_params(click.Context(gateway)) if option.name in own]
    assert not [o.name for o in options if isinstance(o, click.Option) and (o.help or "[").startswith("[")]


def test_help_loads_neither_torch_nor_nats_nor_a_service() -> None:
    code = (
        "import sys; from turboserve.cli import main; main(['--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'nats', 'sqlalchemy', 'httpx', 'services') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version() -> None:
    assert run("--version").stdout.startswith("turboserve 0.")


def test_nobody_at_the_url() -> None:
    refused(run("sessions", TURBOSERVE_URL="http://127.0.0.1:1"), "http://127.0.0.1:1", "turboserve up")
    refused(run("stream", "--prompt", "x", "--url", "somewhere"), "'somewhere'", "http://host:port")


@pytest.mark.parametrize("then", ["a blue star", "@4", "a blue star@", "a blue star@soon", "a blue star@0"])
def test_a_malformed_then(then: str) -> None:
    refused(run("stream", "--prompt", "x", "--then", then), repr(then), "a blue star@4")


def test_a_then_behind_the_last_chunk() -> None:
    refused(run("stream", "--prompt", "x", "--chunks", "4", "--then", "y@4"), "--chunks 4", "chunk 4")


def test_a_then_may_have_an_at_sign_in_its_prompt() -> None:
    assert (parse_then("me @ home @12").prompt, parse_then("me @ home @12").chunk) == ("me @ home", 12)


def test_an_output_that_cannot_be_written_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "missing" / "out.mp4")
    refused(run("stream", "--prompt", "x", "-o", nowhere, "--url", "http://127.0.0.1:1"), nowhere, "-o")


@pytest.mark.parametrize("command", [["sessions"], ["gateway"], ["up", "--port", "0"]])
def test_an_unknown_variable_is_named(command: list[str], tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)] if command[0] == "up" else []
    refused(
        run(*command, *data, TURBOSERVE_NATS_URI="nats://x"), "TURBOSERVE_NATS_URI", "TURBOSERVE_NATS_URL"
    )


def test_a_mistyped_option_is_named() -> None:
    refused(run("autoscaler", "--minimum", "many"), "--minimum='many'")
    refused(run("gateway", "--prot", "80"), "--prot")


def test_up_refuses_what_it_cannot_have(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    refused(run("up", "--port", "0", "--data", str(blocked / "data")), str(blocked), "--data FOLDER")


def test_every_command_is_documented() -> None:
    for command in main.commands.values():
        assert command.help
        undocumented = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
        assert not undocumented or command.name in SERVICES
