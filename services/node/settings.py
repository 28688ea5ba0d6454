"""Settings of a node's supervisor."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from shared.settings import PositiveSeconds, ServiceSettings


class NodeSettings(ServiceSettings, frozen=True, kw_only=True):
    """`name` "": a new one; its workers are called name-0, name-1, and so on. `workers`: how many processes,
    one for each GPU. `device`: what they compute on: "cuda", of which the first gets cuda:0, the second
    cuda:1 and so on, or "cpu". `grace_s`: time it has to end once it was told to, its sessions handed over;
    in a pod its terminationGracePeriodSeconds. `metrics_port`: the node's own, its workers take those after
    it.
    """

    name: str = ""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    device: Literal["cuda", "cpu"] = "cuda"
    grace_s: PositiveSeconds = 120.0
