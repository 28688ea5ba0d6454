"""A part's result: a table for people, JSON for whoever compares."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Report:
    """`note` what the table's reader must know; `row` by row; `figures` whatever else is worth keeping."""

    part: str
    machine: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def row(self, what: str, value: str, key: str = "", number: Any = None) -> None:
        """Shown at once: a run that is cut off has said what it knew."""
        self.rows.append((what, value))
        print(f"  {what:<64} {value}", flush=True)
        if key:
            self.figures[key] = number

    def begin(self) -> None:
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        print(f"{self.part}: {about}; random weights", flush=True)

    def write(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        content = {
            "part": self.part,
            "weights": "random",
            "machine": self.machine,
            "notes": self.notes,
            "rows": self.rows,
            "figures": self.figures,
        }
        (out / f"{self.part}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
        for note in self.notes:
            print(f"  note: {note}", file=sys.stderr)


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest value of rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
