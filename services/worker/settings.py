"""Settings of one worker process."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from shared.settings import PositiveSeconds, ServiceSettings


class WorkerSettings(ServiceSettings, frozen=True, kw_only=True):
    """`worker_id` "": a new one. `incarnation`: of this process, given by a starter that tells of its end,
    never twice; "": a new one. `node`: the machine or pod it runs on, as who started it calls it. `model`:
    what it serves: "sprites", "wan2.1-t2v-1.3b" or "wan2.1-t2v-14b". `model_loader`: the module whose
    `load_model` makes the model; another one brings other models. `device`: "auto" (a GPU if there is one),
    or as torch names it. `weights_path` "": the weights that come with the model; Wan's don't, so it takes a
    folder with them, or random:SEED to try out its speed. `geometry`: WIDTHxHEIGHT in pixels,
    WIDTHxHEIGHTxLATENTFRAMES with those of a chunk, or "small" (208x112x1); Wan's alone is to be chosen,
    832x480x3 where it isn't.

    `max_batch`: rows stepped together at most, where a measurement at start says that it pays.

    `capacity` 0: as many active sessions as a measurement at start says. `slots`: sessions on the device,
    each active one among them; 0: what keeps up and two to spare, as far as its memory goes. `host_pool_gib`:
    host memory set aside at start for sessions that left the device, paused ones first; 0: none.
    `write_behind`: copy there what chunks change while the session plays, as long as there is room, so that
    it can leave at once. `drain_s`: how long a worker told to stop finishes the chunks in hand.

    `cold_tier`: keep what lost sessions are rebuilt from in a stream of NATS, in files.
    `cold_tier_max_age_s`: how long it is kept there, as the cell's first worker says. `cold_tier_max_gib`:
    the room for it, beyond which the oldest goes, as the cell's first worker says.

    `transfer_host`: the address under which other workers reach this one, over which sessions move (in
    Kubernetes the pod's); "auto": what this machine's name stands for. `transports`: over which it may be
    linked to them, of ipc (GPUs of one host), nccl (GPUs) and tcp, apart by commas; "": all that it can.
    `move_patience_s`: how long a session that moves stands still at most before it goes on here, 0: as long
    as its viewers' credit lasts, two chunks; everything else of a move waits in proportion.
    `links_ahead`: to how many other workers it links itself once it is ready, before any session moves; 0:
    to none. `move_checksums`: whether what was sent is compared with what arrived; it costs time in the
    pause.

    `encode_threads`: of one chunk's encoder, each taking a slice of every picture; 0: half the cores, 8 at
    most. Where a container has fewer cores than its machine, or several workers share them, say how many.
    `encode_preset`: of libx264; slower ones make smaller chunks. `encode_crf`: libx264's quality, lower is
    better. `encode_max_bits_per_pixel`: bounds what noisy pictures cost.
    """

    worker_id: str = ""
    incarnation: str = ""
    node: str = ""
    model: str = "sprites"
    model_loader: str = "services.worker.models"
    device: str = "auto"
    weights_path: str = ""
    geometry: str = ""
    capacity: Annotated[int, Meta(ge=0)] = 0
    max_batch: Annotated[int, Meta(ge=1, le=64)] = 8
    slots: Annotated[int, Meta(ge=0, le=10_000)] = 0
    host_pool_gib: Annotated[float, Meta(ge=0)] = 1.0
    write_behind: bool = True
    cold_tier: Literal["on", "off"] = "on"
    cold_tier_max_age_s: PositiveSeconds = 6 * 3600.0
    cold_tier_max_gib: Annotated[float, Meta(gt=0)] = 0.5
    encode_preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "ultrafast"
    encode_threads: Annotated[int, Meta(ge=0, le=32)] = 0
    encode_crf: Annotated[int, Meta(ge=0, le=51)] = 20
    encode_max_bits_per_pixel: Annotated[float, Meta(gt=0, le=24)] = 1.5
    drain_s: PositiveSeconds = 3.0
    transfer_host: str = "127.0.0.1"
    transports: str = ""
    move_patience_s: Annotated[float, Meta(ge=0)] = 0.0
    links_ahead: Annotated[int, Meta(ge=0, le=8)] = 7
    move_checksums: bool = False
