import pytest

from services.text.cleaning import clean


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a red\n\tball \u3000 jumps ", "a red ball jumps"),
        ("salt &amp;amp; pepper &lt;3", "salt & pepper <3"),
        ("cafÃ© dÃ©jÃ  vu", "café déjà vu"),
        ("a &nbsp; b", "a b"),
        ("一只猫", "一只猫"),
        ("", ""),
    ],
)
def test_a_prompt_is_cleaned_as_for_training(prompt: str, cleaned: str) -> None:
    assert clean(prompt) == cleaned
