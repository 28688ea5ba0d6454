"""The comparison of policies: run, kept, told in tables and plots."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench.policies import report
from bench.policies.cases import DEFAULT_Z, Run, cases, options
from bench.sim.simulate import simulate
from bench.traces.generate import generate


def test_every_case_has_a_name_of_its_own_in_its_group() -> None:
    names = [(case.group, case.name) for case in cases()]
    assert len(set(names)) == len(names)


def test_the_report_has_every_policy_and_plots_that_can_be_read(tmp_path: Path) -> None:
    events = generate("steady", 1, scale=0.2, duration_s=40.0)
    one_each = list({case.policy + case.group: case for case in reversed(cases())}.values())
    default = next(case for case in cases() if case.group == "boot" and case.settings.get("z") == DEFAULT_Z)
    runs = [
        Run("steady", 1, case, simulate(events, options(case, events)))
        for case in (*reversed(one_each), default)
    ]
    report.write(runs, tmp_path)
    text = (tmp_path / "policies.md").read_text()
    for policy in ("fixed-rr", "memory-greedy", "ll-resume", "hpa", "paper", "turboserve", "least possible"):
        assert f"| {policy}" in text
    for plot in ("beyond.svg", "latency.svg", "worst.svg"):
        circles = ElementTree.parse(tmp_path / plot).iter("{http://www.w3.org/2000/svg}circle")
        assert len(list(circles)) >= 4
