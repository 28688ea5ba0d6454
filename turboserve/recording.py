"""Chunks into an MP4 file, as they are: the H.264 is wrapped, not encoded again."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from turboserve.errors import TurboserveError
from turboserve.messages import Chunk

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

_TICKS_PER_S = 90_000


class Recording:
    """Written beside `path` and put in its place at the end, so that a failed attempt destroys nothing."""

    def __init__(self, path: Path) -> None:
        """Raises TurboserveError if the file can't be written or PyAV is missing."""
        try:
            import av
        except ImportError:
            raise TurboserveError(
                "no_av", "writing video needs PyAV", "install it: pip install 'turboserve[record]'"
            ) from None
        self.path = path
        self.duration_s = 0.0
        self._part = path.with_name(f".{path.name}.part")
        self._stream: VideoStream | None = None
        try:
            self._part.touch()
            self._container: OutputContainer = av.open(
                str(self._part), "w", format="mp4", options={"movflags": "+faststart"}
            )
        except OSError as error:
            raise TurboserveError(
                "not_writable", f"{path} can't be written: {error.strerror}", "name another file with -o"
            ) from None

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, chunk: Chunk) -> None:
        import av

        with av.open(io.BytesIO(chunk.media), "r", format="h264") as source:
            stream = self._stream or self._add_stream(source, chunk)
            ticks = round(_TICKS_PER_S / chunk.fps)
            for packet in source.demux(source.streams.video[0]):
                if not packet.size:
                    continue
                packet.stream = stream
                packet.time_base = Fraction(1, _TICKS_PER_S)
                packet.pts = packet.dts = round(self.duration_s * _TICKS_PER_S)
                packet.duration = ticks
                self._container.mux(packet)
                self.duration_s += 1 / chunk.fps

    def close(self) -> None:
        """Finish the file. Without a single chunk there is none."""
        self._container.close()
        if self._stream is None:
            self._part.unlink(missing_ok=True)
        else:
            self._part.replace(self.path)

    def _add_stream(self, source: InputContainer, chunk: Chunk) -> VideoStream:
        template = source.streams.video[0]
        template.codec_context.extradata = _parameter_sets(chunk.media)
        self._stream = self._container.add_stream_from_template(template)
        self._stream.time_base = Fraction(1, _TICKS_PER_S)
        return self._stream


def _parameter_sets(media: bytes) -> bytes:
    """The SPS and PPS that begin a chunk, which a player must have before the first frame."""
    kept = []
    for unit in media.split(b"\x00\x00\x01"):
        unit_type = unit[0] & 0x1F if unit else 0
        if unit_type in (7, 8):
            kept.append(b"\x00\x00\x00\x01" + unit.rstrip(b"\x00"))
        elif unit_type in (1, 5):
            break
    return b"".join(kept)
