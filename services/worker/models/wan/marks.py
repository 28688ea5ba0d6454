"""Events in the midst of a forward: after which of its layers the ring has their keys and values.

They are recorded by every forward, captured or not (external ones, which graphs may share), so that what a
forward makes can be copied while it still runs. On an H100 recording and waiting were seen to be of that very
launch, for captured forwards and others.
"""

from __future__ import annotations

from typing import Any

import torch

LAYERS_TOGETHER = 3
"""So many layers end with one event: few enough that little is left to copy behind a forward's end."""


class Marks:
    """Of one CUDA device, on the thread that steps it."""

    def __init__(self, device: torch.device, layers: int) -> None:
        self._device, self._layers = device, layers
        self._events: list[Any] = [
            torch.cuda.Event(external=True) for _ in range(-(-layers // LAYERS_TOGETHER))
        ]
        self._aside = torch.cuda.Stream(device)
        for event in self._events:
            event.record(self._present())  # made now, and not within a capture

    def wrote(self, layer: int) -> None:
        """The stream was just told what writes this layer's keys and values."""
        if (layer + 1) % LAYERS_TOGETHER == 0 or layer + 1 == self._layers:
            self._events[layer // LAYERS_TOGETHER].record(self._present())

    def taken(self) -> tuple[Any, ...]:
        """Of the forward just told, by `LAYERS_TOGETHER` layers: events that the next one leaves alone."""
        own = []
        for event in self._events:
            self._aside.wait_event(event)
            own.append(self._aside.record_event())
        return tuple(own)

    def _present(self) -> Any:
        return torch.cuda.current_stream(self._device)


def marks_for(device: torch.device, layers: int) -> Marks | None:
    """None: its forwards are over when they return."""
    return Marks(device, layers) if device.type == "cuda" else None
