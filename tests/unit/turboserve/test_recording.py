"""An MP4 of real chunks, read back."""

from pathlib import Path

import av
import numpy as np
import pytest

from services.worker.encode import EncodeSettings, encode
from turboserve import Chunk, TurboserveError
from turboserve.recording import Recording

FPS = 12.0
COLOURS = ((200, 30, 30), (30, 160, 30), (30, 30, 200))


def chunk_of(index: int) -> Chunk:
    frames = 9 if index == 0 else 12
    pixels = np.full((frames, 64, 96, 3), COLOURS[index], np.uint8)
    media = encode(pixels, FPS, EncodeSettings())
    return Chunk(index, frames, FPS, 96, 64, media.codec, 1, [], media.data)


def test_every_frame_is_there_at_its_time_in_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with Recording(path) as recording:
        for index in range(3):
            recording.write(chunk_of(index))
    assert recording.duration_s == pytest.approx(33 / FPS)
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        frames = list(video.decode(stream))
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 96, 64)
        assert float(stream.duration * stream.time_base) == pytest.approx(33 / FPS, abs=1e-3)  # type: ignore[operator]
    assert [float(frame.time or 0.0) for frame in frames] == pytest.approx([n / FPS for n in range(33)])
    for at, colour in ((0, COLOURS[0]), (9, COLOURS[1]), (32, COLOURS[2])):
        assert np.abs(frames[at].to_ndarray(format="rgb24").mean(axis=(0, 1)) - colour).max() < 12
    assert list(tmp_path.iterdir()) == [path]


def test_a_recording_without_a_chunk_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_text("precious")
    with Recording(path):
        pass
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TurboserveError, match=r"file/out\.mp4 can't be written"):
        Recording(tmp_path / "file" / "out.mp4")
