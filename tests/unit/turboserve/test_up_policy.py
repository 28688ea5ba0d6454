"""Options of `turboserve up` that can't be, as a user types them."""

from click.testing import CliRunner

from services.placement.policies.registry import POLICIES
from turboserve.cli import main


def test_a_policy_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    ran = CliRunner().invoke(main, ["up", "--policy", "best"])
    assert ran.exit_code == 1
    assert "there is no policy best" in ran.output
    assert all(name in ran.output for name in POLICIES)


def test_the_help_names_every_policy() -> None:
    shown = CliRunner().invoke(main, ["up", "--help"]).output
    assert all(name in shown for name in POLICIES)


def test_a_minimum_above_the_maximum_is_refused_before_anything_starts() -> None:
    ran = CliRunner().invoke(main, ["up", "--workers", "3", "--max-workers", "2"])
    assert ran.exit_code == 1
    assert "at least 3 and at most 2 workers can't be" in ran.output
