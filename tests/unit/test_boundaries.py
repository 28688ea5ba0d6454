"""The lists of deciding files in pyproject.toml: linters pass over a name without a file; this does not."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_every_deciding_file_is_type_checked_strictly_and_kept_from_effects() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    strict = _strict_modules(tools["mypy"]["overrides"])
    files = [ROOT / (module.replace(".", "/") + ".py") for module in strict]
    assert [str(file) for file in files if not file.is_file()] == []
    kept = [name.rpartition(".")[2] for name in _deciding_contract(tools["importlinter"])["source_modules"]]
    assert sorted(kept) == sorted(file.stem for file in files)


def _strict_modules(overrides: list[dict[str, Any]]) -> list[str]:
    return next(part["module"] for part in overrides if part.get("disallow_any_generics") is True)


def _deciding_contract(config: dict[str, Any]) -> dict[str, Any]:
    return next(part for part in config["contracts"] if part["name"].startswith("deciding files"))
