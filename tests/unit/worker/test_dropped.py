from services.worker import dropped
from services.worker.dropped import DroppedEpochs


def test_the_highest_epoch_dropped_counts() -> None:
    epochs = DroppedEpochs()
    epochs.note("s-1", 4)
    epochs.note("s-1", 2)
    assert (epochs.through("s-1"), epochs.through("s-2")) == (4, 0)


def test_the_session_longest_unmentioned_is_forgotten_first(monkeypatch) -> None:
    monkeypatch.setattr(dropped, "_MOST_SESSIONS", 2)
    epochs = DroppedEpochs()
    for session in ("s-1", "s-2", "s-1", "s-3"):
        epochs.note(session, 1)
    assert [epochs.through(session) for session in ("s-1", "s-2", "s-3")] == [1, 0, 1]
