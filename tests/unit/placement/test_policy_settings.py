import pytest

from services.placement.policies.paper import Paper
from services.placement.policies.turboserve import Turboserve
from services.placement.settings import PlacementSettings
from shared.settings import SettingsError, load


def test_a_policy_by_its_name_with_settings_of_its_own() -> None:
    assert PlacementSettings().make_policy() == Turboserve()
    chosen = PlacementSettings(longest_wait_s=9.0, policy_settings='{"balance": false}')
    assert chosen.make_policy() == Turboserve(longest_wait_s=9.0, balance=False)
    assert PlacementSettings(policy="paper", longest_wait_s=9.0).make_policy() == Paper(), "it refuses nobody"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("POLICY", "papre", "TURBOSERVE_PLACEMENT_POLICY='papre' is not valid"),
        ("POLICY_SETTINGS", '{"patience": 1}', "no setting 'patience'; it has"),
        ("POLICY_SETTINGS", '{"patience_s": "long"}', "policy 'turboserve': Expected `float`"),
        ("LONGEST_WAIT_S", "0", "TURBOSERVE_PLACEMENT_LONGEST_WAIT_S"),
    ],
)
def test_what_is_mistyped_is_named(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(PlacementSettings, "placement", {f"TURBOSERVE_PLACEMENT_{name}": value}, {})
    assert said in str(refused.value)
