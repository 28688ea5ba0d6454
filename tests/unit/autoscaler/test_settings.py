"""Settings that only make sense together."""

from typing import get_args

import pytest

from services.autoscaler.policies.registry import POLICIES
from services.autoscaler.policies.turboserve import Turboserve
from services.autoscaler.settings import AutoscalerSettings
from services.placement.policies.registry import POLICIES as PLACEMENT_POLICIES
from shared.policy_choice import PolicyName
from shared.settings import SettingsError, load


def test_the_names_of_policies_are_those_of_both_registries() -> None:
    assert set(get_args(PolicyName)) == set(POLICIES) == set(PLACEMENT_POLICIES)


def test_a_policys_settings_are_json() -> None:
    assert AutoscalerSettings(policy_settings='{"z": 3}').chosen_policy() == Turboserve(z=3.0)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"POLICY": "turbo"}, "TURBOSERVE_AUTOSCALER_POLICY='turbo' is not valid"),
        ({"POLICY_SETTINGS": "z=3"}, "JSON object"),
        ({"POLICY_SETTINGS": '{"zed": 3}'}, "no setting 'zed'; it has arrivals_s, "),
        ({"POLICY_SETTINGS": '{"z": "three"}'}, "policy 'turboserve': Expected `float`"),
        ({"POLICY": "fixed-ll", "POLICY_SETTINGS": '{"z": 3}'}, "no setting 'z'; it has none"),
        ({"MINIMUM": "3", "MAXIMUM": "2"}, "maximum=2 is less than minimum=3"),
    ],
)
def test_what_cannot_be_is_refused_in_words(environ: dict[str, str], words: str) -> None:
    given = {f"TURBOSERVE_AUTOSCALER_{name}": value for name, value in environ.items()}
    with pytest.raises(SettingsError, match=words):
        load(AutoscalerSettings, "autoscaler", given, {})
