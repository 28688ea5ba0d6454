"""Chosen forms are kept for the next start, and only what fits is taken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.gpu.lab import Lab, Setting
from services.worker.models.wan.form import PLAIN, Form, Wishes, wishes
from services.worker.models.wan.forms_kept import Choice, KeptForms, default_folder, key_of
from services.worker.models.wan.start import chosen
from services.worker.models.wan.stepper import Forms
from tests.unit.worker.models.wan import tiny

EAGER = Form("eager", spared="o+cross_o", fp8=True)
CHOICE = Choice(Forms(PLAIN, PLAIN, PLAIN), Forms(EAGER, EAGER, EAGER), {"one row": {"plain": 2.5}})
KEY = {"device": "a GPU", "torch": "2"}


@pytest.fixture
def kept(tmp_path: Path) -> KeptForms:
    return KeptForms(tmp_path / "turboserve", KEY)


def test_what_was_chosen_is_read_again(kept: KeptForms) -> None:
    assert kept.read() is None
    kept.write(CHOICE)
    assert kept.read() == CHOICE
    assert KeptForms(kept.path.parent, KEY | {"torch": "3"}).read() is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"{", "truncated", id="cut off"),
        pytest.param(b'{"key": {}, "choice": 5}', "Expected `object`", id="another layout"),
        pytest.param(b"\xff\xfe\x00", "invalid", id="no text"),
    ],
)
def test_a_spoilt_file_is_ignored_and_said(
    kept: KeptForms, caplog: pytest.LogCaptureFixture, content: bytes, said: str
) -> None:
    kept.write(CHOICE)
    kept.path.write_bytes(content)
    assert kept.read() is None
    assert str(kept.path) in caplog.text
    assert said in caplog.text


def test_a_foreign_file_is_ignored_and_said(kept: KeptForms, caplog: pytest.LogCaptureFixture) -> None:
    other = KeptForms(kept.path.parent, {"device": "another GPU"})
    other.write(CHOICE)
    other.path.replace(kept.path)
    assert kept.read() is None
    assert "of another device" in caplog.text


@pytest.mark.parametrize(
    "form", [Form("magic"), Form(attention="magic"), Form(shape=9), Form(spared="everything")]
)
def test_forms_that_there_are_not_are_ignored(kept: KeptForms, form: Form) -> None:
    kept.write(Choice(Forms(form), Forms()))
    assert kept.read() is None


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    kept = KeptForms(tmp_path / "file", KEY)
    kept.write(CHOICE)
    assert "aren't kept" in caplog.text
    assert kept.read() is None


def test_the_key_tells_apart_what_the_choice_depends_on() -> None:
    kv = torch.zeros(2, 1)
    key = key_of(tiny.config(), Wishes(), kv, torch.float32)
    assert key == key_of(tiny.config(), Wishes(kept="elsewhere"), kv, torch.float32)
    others = [
        key_of(tiny.config(geometry=tiny.FRAME_GEOMETRY), Wishes(), kv, torch.float32),
        key_of(tiny.config(), Wishes(gelu=False), kv, torch.float32),
        key_of(tiny.config(), Wishes(), kv[:1], torch.float32),
        key_of(tiny.config(), Wishes(), kv, torch.bfloat16),
    ]
    assert key not in others


def test_users_caches_are_where_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_folder() == "/caches/turboserve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_folder() == "/home/someone/.cache/turboserve"


def test_where_forms_are_kept_can_be_said() -> None:
    assert wishes({"TURBOSERVE_WAN": "kept=off gelu=on"}) == Wishes(kept="off", gelu=True)
    assert wishes({"TURBOSERVE_WAN": "kept=/a/folder"}).kept == "/a/folder"


def test_the_plain_form_is_not_kept(kept: KeptForms) -> None:
    """Whatever kept the others from working may be over at the next start."""
    lab = Lab(Setting(torch.device("cpu"), tiny=True))
    assert chosen(lab.chooser, kept, Wishes("plain"), native=False).forms.alone == PLAIN
    assert not kept.path.exists()


def test_a_second_start_compares_nothing(kept: KeptForms, caplog: pytest.LogCaptureFixture) -> None:
    """Unless what it finds doesn't work here."""
    setting = Setting(torch.device("cpu"), tiny=True)
    wished = Wishes("eager", "gather", attention="default", cross="default", gelu=False)
    first = chosen(Lab(setting).chooser, kept, wished, native=False)
    assert first.forms.alone.pieces == "eager"
    chooser = Lab(setting).chooser
    assert chosen(chooser, kept, wished, native=False) == first
    assert not chooser.took
    lost = replace(first.forms.alone, window="slots8")
    kept.write(Choice(Forms(lost, lost, lost), first.fp8_forms))
    with caplog.at_level(logging.WARNING):
        assert chosen(chooser, kept, wished, native=False).forms == first.forms
    assert "don't work here" in caplog.text


def test_another_worker_of_the_host_is_waited_for(kept: KeptForms) -> None:
    """Its choice is taken, instead of comparing the same beside it."""
    lab = Lab(Setting(torch.device("cpu"), tiny=True))
    wished = Wishes("eager", "gather", attention="default", cross="default", gelu=False)
    eager = Form("eager")
    found = Choice(Forms(eager, eager, eager), Forms(eager, eager, eager))
    with ThreadPoolExecutor(1) as pool:
        with kept.alone(30):
            waiting = pool.submit(chosen, lab.chooser, kept, wished, native=False)
            kept.write(found)
        assert waiting.result(30) == found
    assert not lab.chooser.took


def test_what_is_called_ahead_of_comparing_may_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU three of torch's ways to attention do."""
    chooser, called = Lab(Setting(torch.device("cpu"), tiny=True)).chooser, list[Form]()

    def noted(_: int, form: Form) -> Callable[[], torch.Tensor]:
        called.append(form)
        return lambda: torch.zeros(1)

    monkeypatch.setattr(chooser, "_uncaptured", noted)
    chooser.warm_up()
    assert called == [PLAIN]
    assert chooser.took == {}
