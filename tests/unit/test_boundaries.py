"""The lists of deciding files in pyproject.toml: linters pass over a name without a file; this does not."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_every_deciding_file_is_type_checked_strictly_and_kept_from_effects() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    strict = _strict_modules(tools["mypy"]["overrides"])
    assert [module for module in strict if not _files(module)] == []
    # "services.worker.moving.*" there is "services.*.moving" and "services.*.moving.*" here.
    kept = {name.split(".", 2)[2] for name in _deciding_contract(tools["importlinter"])["source_modules"]}
    expected = {module.split(".", 2)[2] for module in strict}
    assert kept == expected | {name.removesuffix(".*") for name in expected}


def _files(module: str) -> list[Path]:
    """Of a module, or of a whole folder."""
    return list(ROOT.glob(module.replace(".", "/") + ".py"))


def _strict_modules(overrides: list[dict[str, Any]]) -> list[str]:
    return next(part["module"] for part in overrides if part.get("disallow_any_generics") is True)


def _deciding_contract(config: dict[str, Any]) -> dict[str, Any]:
    return next(part for part in config["contracts"] if part["name"].startswith("deciding files"))
