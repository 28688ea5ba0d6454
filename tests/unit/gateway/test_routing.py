"""New sessions go where there is room, repeated ones where the first went; pages of cells are one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.routing import CellState, choose_cell, merge
from services.gateway.settings import GatewaySettings
from shared.contracts.session import SessionPage, SessionView, cursor_after
from shared.ids import InvalidName
from tests.contract.examples import VIEW

A = CellState("a", ready=True, free=3, models=["tiny"])
B = CellState("b", ready=True, free=5, models=["wan"])
DOWN = CellState("down", ready=False, free=0, models=[])


def test_the_ready_one_with_most_room_is_chosen_of_those_that_serve_the_model() -> None:
    assert choose_cell([DOWN, A, B], "", "") == "b"
    assert choose_cell([DOWN, A, B], "tiny", "") == "a"
    assert choose_cell([A, B], "unheard-of", "") == "b", "placement says so"
    assert choose_cell([A, A._replace(name="other")], "", "") == "a"
    assert choose_cell([DOWN, DOWN._replace(name="other", free=9)], "", "") == "down"


cells = st.lists(
    st.builds(CellState, st.text(max_size=3), st.booleans(), st.integers(), st.just([])), min_size=1
)


@given(cells, st.text(min_size=1))
def test_a_repeated_opening_goes_where_the_first_went(states: list[CellState], key: str) -> None:
    chosen = choose_cell(states, "", key)
    later = [cell._replace(ready=not cell.ready, free=-cell.free) for cell in reversed(states)]
    assert choose_cell(later, "tiny", key) == chosen
    fewer = [cell for cell in states if cell.name == chosen or cell.ready]
    assert choose_cell(fewer, "", key) == chosen


def view(session: str, created_at: float) -> SessionView:
    return SessionView(
        **{name: getattr(VIEW, name) for name in VIEW.__struct_fields__}
        | {"id": session, "created_at": created_at}
    )


moments = st.lists(st.integers(0, 6), max_size=12)


@given(st.lists(moments, min_size=1, max_size=3), st.integers(1, 5))
def test_pages_run_through_all_cells_newest_first(made: list[list[int]], limit: int) -> None:
    held = [
        [view(f"c{cell}_{n}", float(at)) for n, at in enumerate(moments)] for cell, moments in enumerate(made)
    ]

    def page(views: list[SessionView], cursor: str) -> SessionPage:
        """As the store makes it."""
        newest_first = sorted(views, key=lambda one: (one.created_at, one.id), reverse=True)
        moment, _, session = cursor.partition("~")
        behind = [
            v for v in newest_first if not cursor or (v.created_at, v.id) < (float.fromhex(moment), session)
        ]
        shown = behind[:limit]
        last = cursor_after(shown[-1].created_at, shown[-1].id) if len(behind) > limit else ""
        return SessionPage(shown, last)

    seen: list[str] = []
    cursor = ""
    while True:
        merged = merge([page(views, cursor) for views in held], limit)
        assert len(merged.sessions) <= limit
        seen += [one.id for one in merged.sessions]
        if not (cursor := merged.cursor):
            break
    expected = sorted(
        (one for views in held for one in views), key=lambda v: (v.created_at, v.id), reverse=True
    )
    assert seen == [one.id for one in expected]


def test_cells_are_named_in_the_settings() -> None:
    assert GatewaySettings(cell="main").cell_names == ["main"]
    assert GatewaySettings(cells=" east, west,east").cell_names == ["east", "west"]
    with pytest.raises(InvalidName):
        GatewaySettings(cells="No Cell")
