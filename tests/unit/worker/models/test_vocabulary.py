import itertools

import pytest

from services.worker.models.sprites.vocabulary import SLOTS, attributes, describe, read, token_ids


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a crimson square", {"colour": "red", "shape": "box"}),
        ("A tiny GOLDEN star, please!", {"size": "small", "colour": "yellow", "shape": "star"}),
        ("now it moves to the left", {"motion": "left"}),
        ("a ball in a green meadow", {"shape": "ball", "background": "meadow"}),
        ("under a starry sky", {"background": "night"}),
        ("standing still in a circle", {"motion": "still"}),
        (
            "a pink heart circling slowly over the blue sea",
            {
                "colour": "pink",
                "shape": "heart",
                "motion": "orbit",
                "speed": "slow",
                "background": "sea",
            },
        ),
    ],
)
def test_synonyms_and_phrases(prompt: str, named: dict[str, str]) -> None:
    assert read(prompt).named == named


def test_filler_words_never_warn() -> None:
    assert read("now please make the ball a red one with a colour").warnings == ()


def test_unknown_words_are_named_once_and_the_rest_is_understood() -> None:
    reading = read("a red dragon beside a dragon castle")
    assert reading.named == {"colour": "red"}
    assert reading.warnings == ("not understood and ignored: 'dragon', 'beside', 'castle'",)


def test_a_second_value_is_ignored_and_said_so() -> None:
    reading = read("a red and blue ball")
    assert reading.named["colour"] == "red"
    assert "'blue' is ignored" in reading.warnings[0]


def test_a_prompt_of_nothing_known_says_what_to_try() -> None:
    assert any("try something like" in warning for warning in read("lorem ipsum").warnings)


def test_unnamed_slots_keep_their_value() -> None:
    first = attributes(read("a small blue star at night").named)
    then = attributes(read("make it green").named, first)
    assert then == (SLOTS["colour"].index("green"), *first[1:])


def test_every_scene_is_described_so_that_it_reads_back() -> None:
    for values in itertools.product(*(range(len(options)) for options in SLOTS.values())):
        scene = (values[0], values[1], values[2], values[3], values[4], values[5])
        reading = read(describe(scene))
        assert attributes(reading.named) == scene
        assert not reading.warnings


def test_tokens_of_different_slots_never_collide() -> None:
    sizes = [len(options) - 1 for options in SLOTS.values()]
    last = (sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5])
    assert token_ids((0, 0, 0, 0, 0, 0))[1:] == tuple(before + 1 for before in token_ids(last)[:-1])
