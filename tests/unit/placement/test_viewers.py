from services.placement.viewers import EXPIRY_S, Viewers
from shared.contracts.stream import ViewerReport


def test_viewers_of_all_gateways_until_their_word_lapses() -> None:
    viewers = Viewers()
    viewers.report(ViewerReport("g-1", 2, 3), 0.0)
    viewers.report(ViewerReport("g-2", 1, 9), 4.0)
    assert viewers.count(EXPIRY_S) == 3
    assert viewers.count(EXPIRY_S + 0.1) == 1
    viewers.report(ViewerReport("g-2", 0, 9), 6.0)
    assert viewers.count(6.0) == 0


def test_credit_is_the_furthest_and_never_falls() -> None:
    viewers = Viewers(granted_through=4)
    viewers.report(ViewerReport("g-1", 1, 2), 0.0)
    assert viewers.granted_through == 4
    viewers.report(ViewerReport("g-2", 1, 8), 0.0)
    viewers.report(ViewerReport("g-2", 0, -1), 0.0)
    assert viewers.granted_through == 8


def test_any_number_of_gateways_costs_bounded_memory() -> None:
    viewers = Viewers()
    for number in range(1000):
        viewers.report(ViewerReport(f"g-{number}", 1, 0), 0.0)
    assert 0 < viewers.count(0.0) < 1000


def test_a_grant_tells_when_a_viewer_was_done_with_a_chunk() -> None:
    viewers = Viewers(4)
    heard: list[float | None] = []
    for now, granted_through in ((10.0, 4), (11.0, 6), (12.0, 6), (13.0, 9)):
        viewers.report(ViewerReport("g-1", 1, granted_through), now)
        heard.append(viewers.granted_at)
    assert heard == [None, 11.0, 11.0, 11.0], "in the end words got lost in between"
