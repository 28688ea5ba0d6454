"""Free text to the attributes of a scene. Pure Python: the gateway's warnings and the model's tokens both
come from here.

A scene has one value per slot. A prompt names some of them; slots it leaves unnamed keep the value they have
(or the default when the session begins). Words nobody knows are reported back, never refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SLOTS: Final[dict[str, tuple[str, ...]]] = {
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    "shape": ("ball", "box", "triangle", "star", "heart", "diamond"),
    "size": ("small", "big"),
    "motion": ("still", "left", "right", "up", "down", "bounce", "orbit"),
    "speed": ("slow", "normal", "fast"),
    "background": ("night", "meadow", "sea", "desert", "plain"),
}
SLOT_NAMES: Final = tuple(SLOTS)
DEFAULTS: Final = {
    "colour": "red",
    "shape": "ball",
    "size": "big",
    "motion": "bounce",
    "speed": "normal",
    "background": "meadow",
}

Attributes = tuple[int, int, int, int, int, int]
"""One value index per slot, in the order of SLOTS."""

_SYNONYMS: Final[dict[str, dict[str, str]]] = {
    "colour": {
        "red": "scarlet crimson ruby cherry",
        "orange": "amber tangerine",
        "yellow": "golden gold lemon",
        "green": "emerald lime",
        "blue": "azure navy cyan turquoise teal",
        "purple": "violet lilac indigo magenta",
        "pink": "rose rosy salmon",
        "white": "silver ivory pale snowy",
    },
    "shape": {
        "ball": "circle sphere disc disk dot orb balloon round balls",
        "box": "square cube block crate boxes brick rectangle",
        "triangle": "pyramid cone triangular",
        "star": "starfish",
        "heart": "hearts love",
        "diamond": "rhombus gem jewel kite crystal",
    },
    "size": {
        "small": "little tiny mini smaller miniature wee",
        "big": "large huge giant bigger larger enormous great",
    },
    "motion": {
        "still": "resting rests stopped stops stop motionless static standing stands standstill waiting"
        " waits frozen"
        " hovering hovers freeze rest stand,in place",
        "left": "leftward leftwards,to the left,moving left",
        "right": "rightward rightwards sideways horizontally,to the right,left and right,from side to side,"
        "side to side,back and forth,left to right",
        "up": "upward upwards rising rises rise climbing climbs,up and down",
        "down": "downward downwards falling falls fall sinking sinks dropping drops vertically",
        "bounce": "bouncing bounces diagonal diagonally jumping jumps hopping hops ricochets ricocheting",
        "orbit": "orbiting orbits circling circles spinning revolving rotating around,in a circle,in circles,"
        "round and round",
    },
    "speed": {
        "slow": "slowly slower gently calm calmly lazily lazy leisurely gentle",
        "normal": "steady steadily medium",
        "fast": "quickly quick faster rapidly rapid speedy swiftly swift racing races",
    },
    "background": {
        "night": "space starry stars midnight dark moon moonlit galaxy,night sky,starry sky,starry"
        " night,at night,"
        "outer space,dark sky,full of stars",
        "meadow": "grass field lawn park hills hill garden grassy countryside pasture,blue sky",
        "sea": "ocean water waves lake underwater beach wave",
        "desert": "sand dunes sandy dune sahara sunset",
        "plain": "blank empty studio cream wall grey gray neutral,no background",
    },
}
_FILLERS: Final = frozenset(
    "a an the and then now please with on in at over above of to is are be it its it's that this which"
    " while make makes made"
    " turn turns turned turning into becomes become becoming show shows me let there as by for from"
    " through across along"
    " under one some very my your colour color coloured colored colors colours shape shaped size sized"
    " background"
    " backdrop scene picture video moves move moving goes go going floating floats flies fly flying"
    " drifting drifts"
    " travels travelling traveling slides sliding keep keeps sky front against before behind i want would"
    " like see put"
    " has have having change changes changed but so just again speed motion direction toward towards start"
    " starts"
    " starting began begin begins running runs travel drift float slide toy little-by-little cute nice"
    " beautiful"
    " lovely shiny bright sprite object thing side screen deep soft".split()
)
_WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood of one prompt: slot name -> value name, and what was not, in words for its
    author."""

    named: dict[str, str]
    warnings: tuple[str, ...]


def _lexicon() -> dict[tuple[str, ...], tuple[str, str]]:
    entries: dict[tuple[str, ...], tuple[str, str]] = {}
    for slot, values in SLOTS.items():
        for value in values:
            words, *phrases = _SYNONYMS[slot].get(value, "").split(",")
            for phrase in (value, *words.split(), *phrases):
                entries[tuple(phrase.split())] = (slot, value)
    return entries


_LEXICON: Final = _lexicon()
_LONGEST: Final = max(len(phrase) for phrase in _LEXICON)


def _match(words: list[str], at: int) -> tuple[int, tuple[str, str]] | None:
    for length in range(min(_LONGEST, len(words) - at), 0, -1):
        found = _LEXICON.get(tuple(words[at : at + length]))
        if found:
            return length, found
    return None


def read(prompt: str) -> Reading:
    """Never fails. The first value named for a slot counts; a colour right before a background word describes
    the background ("a green meadow") and is left out."""
    words = _WORD.findall(prompt.lower().replace("’", "'"))
    named: dict[str, str] = {}
    unknown: list[str] = []
    warnings: list[str] = []
    at = 0
    while at < len(words):
        match = _match(words, at)
        if match is None:
            if words[at] not in _FILLERS and words[at] not in unknown:
                unknown.append(words[at])
            at += 1
            continue
        length, (slot, value) = match
        after = _match(words, at + length)
        at += length
        if slot == "colour" and after is not None and after[1][0] == "background":
            continue
        if named.setdefault(slot, value) != value:
            warnings.append(f"only one {slot} at a time: '{named[slot]}' is shown, '{value}' is ignored")
    if unknown:
        listed = ", ".join(f"'{word}'" for word in unknown)
        warnings.insert(0, f"not understood and ignored: {listed}")
    if not named:
        warnings.append("nothing in this prompt is known; try something like 'a blue star orbits at night'")
    return Reading(named, tuple(warnings))


def attributes(named: dict[str, str], before: Attributes | None = None) -> Attributes:
    """The scene after a prompt; slots it doesn't name keep `before`'s value, None means the defaults."""
    kept = before or tuple(SLOTS[slot].index(DEFAULTS[slot]) for slot in SLOT_NAMES)
    values = [
        SLOTS[slot].index(named[slot]) if slot in named else kept[i] for i, slot in enumerate(SLOT_NAMES)
    ]
    return (values[0], values[1], values[2], values[3], values[4], values[5])


def describe(scene: Attributes) -> str:
    """A plain prompt for a scene, read back to the same attributes."""
    colour, shape, size, motion, speed, background = (
        SLOTS[slot][value] for slot, value in zip(SLOT_NAMES, scene, strict=True)
    )
    return f"a {size} {colour} {shape}, {motion}, {speed}, {background}"


TOKEN_OFFSETS: Final = tuple(sum(len(SLOTS[slot]) for slot in SLOT_NAMES[:i]) for i in range(len(SLOT_NAMES)))
TOKEN_COUNT: Final = sum(len(values) for values in SLOTS.values())


def token_ids(scene: Attributes) -> tuple[int, ...]:
    """The canonical tokens of a scene: one id per slot, all different."""
    return tuple(offset + value for offset, value in zip(TOKEN_OFFSETS, scene, strict=True))


def held_out(scene: Attributes) -> bool:
    """One in ten combinations of colour, shape and background is never trained on; the evaluator asks
    only for these."""
    colour, shape, _, _, _, background = scene
    return (colour * 7 + shape * 3 + background * 11) % 10 == 4
