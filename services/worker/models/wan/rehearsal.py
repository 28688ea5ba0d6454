"""Kernels compiled beside the model's making. On the meta device tensors have shapes, strides and offsets but
no bytes: there the very code that compares forms says which kernels it launches, and with what. So what is
compiled here is what is launched later; what isn't, for whatever reason, is compiled at its first launch.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.worker.models.slots import Layout, Pool
from services.worker.models.wan.attention import TOLERANCE, Ways
from services.worker.models.wan.choose import Chooser
from services.worker.models.wan.compiling import Divided
from services.worker.models.wan.config import WanConfig
from services.worker.models.wan.form import PLAIN, Wishes
from services.worker.models.wan.forms_kept import OFF
from services.worker.models.wan.graphs import Replay
from services.worker.models.wan.kernels import usable
from services.worker.models.wan.shapes import ShapesOnly
from services.worker.models.wan.start import compared, made_swift
from services.worker.models.wan.transformer import Transformer

logger = logging.getLogger(__name__)

_META = torch.device("meta")
_LAYERS = 2  # a first and a last one; those between are alike
_MOST_THREADS = 12


def begun(
    config: WanConfig, layout: Layout, slots: int, device: torch.device, dtype: torch.dtype, wishes: Wishes
) -> Future[None] | None:
    """Done when all is compiled, or what hinders it was logged. It goes on on a thread that ends with the
    process. None: no kernel will be launched. `layout`: of the pool that will be.
    """
    if device.type != "cuda" or not usable(device) or wishes.pieces not in (None, "triton"):
        return None
    done: Future[None] = Future()
    place = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)

    def work() -> None:
        started = time.perf_counter()
        try:
            torch.cuda.set_device(place)
            kernels = _compiled(lambda: rehearse(config, layout, slots, dtype, wishes), place, wishes)
            text = "loaded: %d kernels (%d by another worker) in %.2f s, beside the model"
            logger.info(text, *kernels, time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001 a start doesn't depend on it
            logger.warning("kernels can't be compiled beside the model: %s", error)
        finally:
            done.set_result(None)

    threading.Thread(target=work, name="kernels", daemon=True).start()
    return done


def rehearse(config: WanConfig, layout: Layout, slots: int, dtype: torch.dtype, wishes: Wishes) -> None:
    """What `start` does when nothing was kept, without bytes. torch's ways to attention launch none of our
    kernels, and choosing one is a setting of the whole process: they stay out.
    """
    with ShapesOnly():
        _rehearse(config, layout, slots, dtype, wishes)


def _rehearse(config: WanConfig, layout: Layout, slots: int, dtype: torch.dtype, wishes: Wishes) -> None:
    few = replace(config.architecture, layers=min(_LAYERS, config.architecture.layers))
    with _META:
        transformer = Transformer(replace(config, architecture=few)).to(dtype)
    transformer.eval().requires_grad_(requires_grad=False).ready(_META)
    pool = Pool(layout, slots, _META)
    swift = made_swift(transformer, pool["kv"], pool["cross"], wishes, native_fp8=True)
    chooser = Chooser(config, swift, pool["kv"], pool["cross"], called, done_once)
    gelu = True if wishes.gelu is None else wishes.gelu
    wished = replace(wishes, attention="default", cross="default", gelu=gelu)
    choice = compared(chooser, wished, native=True)
    for rows, form in chooser.served(choice.forms, choice.fp8_forms):
        _works(str(form), chooser.forward(rows, form))


def called(
    ways: Ways,
    device: torch.device,  # noqa: ARG001 as `fastest`
    tolerance: float = TOLERANCE,  # noqa: ARG001
    *,
    first_told: bool = True,  # noqa: ARG001
) -> tuple[str, dict[str, float]]:
    """Instead of `fastest`: each is called but the plain form, which has no kernels. The last one is said to
    be chosen, as products in eight bits are.
    """
    took = {name: 0.0 for name, way in ways.items() if name != str(PLAIN) and _works(name, way)}
    return next(reversed(took), next(iter(ways))), took


def done_once(work: Callable[[], Tensor], *, warm: bool) -> tuple[Replay, Tensor]:  # noqa: ARG001 a `Capture`
    return lambda: None, work()


def _works(name: str, way: Callable[[], Any]) -> bool:
    try:
        way()
    except Exception as error:  # noqa: BLE001 others are to be rehearsed all the same
        logger.debug("%s can't be rehearsed: %s", name, error)
        return False
    return True


def _compiled(rehearsal: Callable[[], None], device: torch.device, wishes: Wishes) -> tuple[int, int]:
    """How many kernels it launches, each of which is compiled and loaded, and how many of them another worker
    was at.
    """
    from triton import AsyncCompileMode

    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    folder = None if wishes.kept in (None, OFF) else Path(wishes.kept) / "kernels"
    with ThreadPoolExecutor(threads, "kernel", torch.cuda.set_device, (device,)) as pool:
        divided = Divided(pool, folder)
        return _all(AsyncCompileMode, rehearsal, divided), len(divided.elsewhere)


def _all(mode: Any, rehearsal: Callable[[], None], divided: Divided) -> int:
    """`mode`: Triton's, in which a launch only hands the compiler's work over."""
    with mode(divided, ignore_errors=True) as asked:
        rehearsal()
    return sum(made.kernel is not None for made in asked.future_kernels.values())
