"""Copies to host memory that are queued: who is told when. The device's copies end when they are told to."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from services.worker.outward import Outward, Piece

MOST = 100


class Event:
    def __init__(self, *, over: bool = False) -> None:
        self.is_over = over
        self.asked_to_fail = False

    def query(self) -> bool:
        if self.asked_to_fail:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return self.is_over


class Device:
    """Its copies end in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Sequence[Event]]] = []
        self.ends: list[Event] = []
        self.refuses: str = ""

    def tell(self, _into: str, source: str, after: Sequence[Event]) -> tuple[Event, Event]:
        if self.refuses and source.startswith(self.refuses):
            raise RuntimeError("CUDA error: invalid argument")
        self.told.append((source, after))
        self.ends.append(Event())
        return Event(over=True), self.ends[-1]

    def end(self, count: int = 1) -> None:
        for event in [each for each in self.ends if not each.is_over][:count]:
            event.is_over = True

    @property
    def names(self) -> str:
        return " ".join(name for name, _ in self.told)


class Bench:
    def __init__(self) -> None:
        self.device = Device()
        self.outward = Outward(self.device.tell, MOST)

    def put(self, names: str, *after: Event, size: int = 50, urgent: bool = False) -> list[Piece]:
        """A mirror's pieces, "a1 a2": its slot is its letter."""
        pieces = [Piece(ord(name[0]), "", name, after, size) for name in names.split()]
        self.outward.put(pieces, ord(names[0]), urgent=urgent)
        return pieces


def test_no_more_is_told_at_once_than_may_be() -> None:
    bench = Bench()
    bench.put("a1 a2 a3 a4")
    assert bench.device.told == [], "until it is pumped"
    bench.outward.pump()
    bench.outward.pump()
    assert bench.device.names == "a1 a2"
    assert bench.outward.waiting_bytes() == 100
    bench.device.end()
    bench.outward.pump()
    assert bench.device.names == "a1 a2 a3"
    bench.device.end(2)
    bench.outward.pump()
    assert not bench.outward.waiting


def test_what_somebody_waits_for_comes_first_with_all_that_its_mirror_still_waits_for() -> None:
    bench = Bench()
    bench.put("a1 a2 a3")
    bench.put("b1")
    bench.outward.pump()
    bench.put("b2", urgent=True)
    for _ in range(3):
        bench.device.end()
        bench.outward.pump()
    assert bench.device.names == "a1 a2 b1 b2 a3"
    bench.put("b3")
    bench.put("a4")
    bench.device.end(9)
    bench.outward.pump()
    assert bench.device.names.endswith("b3 a4"), "it isn't urgent any more"


def test_nothing_left_to_copy_is_over_though_others_wait() -> None:
    bench = Bench()
    bench.put("a1 a2 a3")
    bench.outward.pump()
    bench.put("b1")
    bench.outward.put([], ord("c"), urgent=True)
    assert bench.outward.last(ord("c")) is None
    last = bench.outward.last(ord("b"))
    assert last is not None
    bench.outward.drop(ord("b"))
    assert last.over
    assert bench.outward.last(ord("b")) is None


def test_what_is_not_final_yet_holds_up_its_own_mirror_only() -> None:
    bench, final = Bench(), Event()
    bench.put("a1", final)
    bench.put("a2", urgent=True)
    bench.put("b1")
    bench.outward.pump()
    assert bench.device.names == "b1"
    final.is_over = True
    bench.outward.pump()
    assert bench.device.names == "b1 a1"
    bench.device.end()
    bench.outward.pump()
    assert bench.device.names == "b1 a1 a2"


def test_all_of_a_mirror_can_be_told_at_once_final_or_not() -> None:
    bench, final = Bench(), Event()
    bench.put("b1")
    bench.put("a1 a2 a3", final)
    bench.outward.flush(ord("a"))
    assert bench.device.told == [("a1", (final,)), ("a2", (final,)), ("a3", (final,))]
    bench.outward.pump()
    assert "b1" not in bench.device.names, "more than may be is under way"
    last = bench.outward.last(ord("a"))
    bench.device.end(3)
    assert last is not None
    assert last.over


def test_a_copy_that_fails_drops_its_mirror_and_no_other() -> None:
    bench, broken = Bench(), Event()
    broken.asked_to_fail = True
    bench.device.refuses = "b"
    failing = [*bench.put("a1 a2", broken), *bench.put("b1 b2")]
    bench.put("c1")
    bench.put("d1")
    bench.outward.pump()
    assert bench.device.names == "c1 d1"
    assert all(piece.over for piece in failing), "nobody waits for them"
    bench.device.ends[0].asked_to_fail = True
    bench.outward.pump()
    assert bench.outward.failed() == {ord("a"), ord("b"), ord("c")}
    assert bench.outward.failed() == set()
    bench.device.ends[1].is_over = True
    bench.put("c2")
    bench.outward.pump()
    assert bench.device.names == "c1 d1 c2"


class Played(Bench):
    """`wanted`: what each mirror is to get, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.finals: list[Event] = []
        self.wanted: dict[str, list[str]] = {mirror: [] for mirror in "abc"}

    def put_one(self, mirror: str, *, final: bool, urgent: bool) -> None:
        name = f"{mirror}{len(self.finals)}"
        self.finals.append(Event(over=final))
        self.put(name, self.finals[-1], urgent=urgent)
        self.wanted[mirror].append(name)

    def pump(self) -> None:
        before = len(self.device.told)
        self.outward.pump()
        assert not any(after for _, after in self.device.told[before:]), "told, but not final"
        assert 50 * (len(self.device.told) - before) <= MOST

    def drop(self, mirror: str) -> None:
        self.outward.drop(ord(mirror))
        told = self.device.names.split()
        self.wanted[mirror] = [name for name in self.wanted[mirror] if name in told]

    def act(self, action: str, mirror: str) -> None:
        if action in ("put", "urgent", "late"):
            self.put_one(mirror, final=action != "late", urgent=action == "urgent")
        elif action == "final":
            for event in self.finals[::2]:
                event.is_over = True
        elif action == "flush":
            self.outward.flush(ord(mirror))
        else:
            {"pump": self.pump, "end": self.device.end, "drop": lambda: self.drop(mirror)}[action]()


ACTIONS = ["put", "urgent", "late", "pump", "pump", "end", "final", "flush", "drop"]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from("abc"))))
def test_every_mirror_gets_its_pieces_in_order_and_none_before_it_is_final(
    actions: list[tuple[str, str]],
) -> None:
    played = Played()
    for action, mirror in actions:
        played.act(action, mirror)
    for event in played.finals:
        event.is_over = True
    while played.outward.waiting:
        played.device.end(9)
        played.pump()
    for mirror, names in played.wanted.items():
        assert [name for name, _ in played.device.told if name.startswith(mirror)] == names
