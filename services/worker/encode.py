"""Frames of one chunk to H.264 Annex-B, each chunk by an encoder of its own.

Nothing of a session lives in an encoder, so any chunk is a join point and a session that moves takes none
along. See docs/decisions/0005-h264-annexb-per-chunk-encoder.md. Any thread may call it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

Frames = npt.NDArray[np.uint8]
"""[frames, height, width, 3], RGB."""

_START_CODE = b"\x00\x00\x00\x01"
_SEI, _SPS = 6, 7
_SLICE_ROWS = 64  # libx264 cuts no lower, and lower ones gain nothing


class EncodeSettings(NamedTuple):
    """`crf` sets the quality; `max_bits_per_pixel` bounds what noise may cost (times pixels a second: bits
    a second). `threads`: each takes a slice of every picture; of low pictures fewer do.
    """

    preset: str = "ultrafast"
    crf: int = 20
    max_bits_per_pixel: float = 1.5
    threads: int = 1


class Media(NamedTuple):
    """`data` begins with SPS, PPS and an IDR frame; `codec` is the RFC 6381 name that a decoder is
    configured with.
    """

    data: bytes
    codec: str
    frames: int


class EncodeError(Exception):
    """These frames can't be encoded; the message says why."""


def encode(frames: Frames, fps: float, settings: EncodeSettings) -> Media:
    """Raises `EncodeError`."""
    count, height, width, channels = frames.shape
    if frames.dtype != np.uint8 or channels != 3 or width % 2 or height % 2 or not count:
        raise EncodeError(f"frames must be uint8 RGB of even size, not {frames.dtype} {frames.shape}")
    settings = settings._replace(threads=min(settings.threads, max(1, height // _SLICE_ROWS)))
    try:
        encoder = _encoder(width, height, count, fps, settings)
        packets = [
            bytes(p) for picture in _pictures(frames, settings.threads) for p in encoder.encode(picture)
        ]
        packets += [bytes(p) for p in encoder.encode(None)]
    except (av.FFmpegError, ValueError) as error:
        raise EncodeError(f"libx264: {error}") from error
    units = [unit for unit in split(b"".join(packets)) if unit_type(unit) != _SEI]
    return Media(b"".join(_START_CODE + unit for unit in units), codec_string(units), count)


def split(annexb: bytes) -> list[bytes]:
    """The NAL units of a byte stream, without start codes."""
    return [unit for unit in (part.rstrip(b"\x00") for part in annexb.split(b"\x00\x00\x01")) if unit]


def unit_type(unit: bytes) -> int:
    return unit[0] & 0x1F


def codec_string(units: list[bytes]) -> str:
    """`avc1.` and the three bytes after the SPS header: profile, constraints, level."""
    for unit in units:
        if unit_type(unit) == _SPS:
            return "avc1." + unit[1:4].hex()
    raise EncodeError("libx264 wrote no parameter sets")


def _encoder(width: int, height: int, count: int, fps: float, settings: EncodeSettings) -> VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    rate = Fraction(fps).limit_denominator(1001)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = rate, 1 / rate
    encoder.thread_count, encoder.max_b_frames, encoder.gop_size = settings.threads, 0, count
    encoder.color_range = ColorRange.MPEG
    encoder.colorspace = Colorspace.ITU709
    encoder.color_primaries, encoder.color_trc = 1, 1
    bits_per_s = max(64_000, int(settings.max_bits_per_pixel * width * height * fps))
    encoder.options = {
        "preset": settings.preset,
        "tune": "zerolatency",
        "profile": "baseline",
        "crf": str(settings.crf),
        "maxrate": str(bits_per_s),
        "bufsize": str(int(bits_per_s * count / fps)),
        "x264-params": f"scenecut=0:sliced-threads={int(settings.threads > 1)}:repeat-headers=1:annexb=1",
    }
    return encoder


def _pictures(frames: Frames, threads: int) -> Iterator[av.VideoFrame]:
    """Frames as the encoder takes them. One converter for all: making one costs as much as ten frames."""
    converter = VideoReformatter()
    for rgb in frames:
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        yield converter.reformat(
            picture,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=threads,
        )
