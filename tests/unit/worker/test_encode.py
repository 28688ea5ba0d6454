"""Each chunk must stand alone: any of them is where a viewer may join."""

import av
import numpy as np
import pytest

from services.worker.encode import EncodeError, EncodeSettings, Frames, encode, split, unit_type

SETTINGS = EncodeSettings()
SPS, PPS, IDR, SLICE = 7, 8, 5, 1


def moving_square(count: int, background: tuple[int, int, int]) -> Frames:
    frames = np.empty((count, 96, 160, 3), np.uint8)
    frames[:] = background
    for number, frame in enumerate(frames):
        frame[30:60, 5 * number : 5 * number + 30] = (250, 250, 60)
    return frames


def decoded(media: bytes) -> list[av.VideoFrame]:
    decoder = av.CodecContext.create("h264", "r")
    packets = [*decoder.parse(media), *decoder.parse(None), None]
    return [frame for packet in packets for frame in decoder.decode(packet)]


@pytest.mark.parametrize("count", [9, 12])
@pytest.mark.parametrize("background", [(200, 30, 40), (20, 60, 190), (240, 240, 240)])
def test_a_chunk_decodes_alone_in_its_colours(count: int, background: tuple[int, int, int]) -> None:
    frames = moving_square(count, background)
    media = encode(frames, 12.0, SETTINGS)
    pictures = decoded(media.data)
    assert len(pictures) == media.frames == count
    for original, picture in zip(frames, pictures, strict=True):
        shown = picture.to_ndarray(format="rgb24").astype(int)
        assert abs(shown[80:, :] - original[80:, :]).max() <= 10
        assert abs(shown - original).mean() <= 6


def test_begins_with_parameter_sets_and_a_keyframe_and_names_its_codec() -> None:
    media = encode(moving_square(12, (0, 90, 0)), 12.0, SETTINGS)
    units = split(media.data)
    assert media.data.startswith(b"\x00\x00\x00\x01")
    assert [unit_type(unit) for unit in units] == [SPS, PPS, IDR, *[SLICE] * 11]
    profile, constraints, _level = units[0][1:4]
    assert (profile, constraints & 0xC0) == (66, 0xC0)
    assert media.codec == "avc1." + units[0][1:4].hex()


def test_slices_of_threads_are_pictures_of_the_same_colours() -> None:
    """A worker with many cores cuts each picture. Only its first slice begins one."""
    frames = np.repeat(np.repeat(moving_square(12, (200, 30, 40)), 4, 1), 4, 2)
    whole, cut = (encode(frames, 12.0, SETTINGS._replace(threads=threads)) for threads in (1, 4))
    units = split(cut.data)
    assert len(units) > len(split(whole.data))
    begin_pictures = [unit for unit in units if unit_type(unit) in (IDR, SLICE) and unit[1] & 0x80]
    assert (len(begin_pictures), cut.codec, cut.frames) == (12, whole.codec, 12)
    for one, other in zip(decoded(whole.data), decoded(cut.data), strict=True):
        shown = [picture.to_ndarray(format="rgb24").astype(int) for picture in (one, other)]
        assert abs(shown[0] - shown[1]).mean() <= 2


def test_noise_costs_no_more_than_allowed() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 96, 160, 3), dtype=np.uint8)
    free = encode(noise, 12.0, SETTINGS._replace(max_bits_per_pixel=24.0, crf=10))
    capped = encode(noise, 12.0, SETTINGS._replace(max_bits_per_pixel=1.5, crf=10))
    assert len(capped.data) < 2 * 1.5 * noise.size / 3 / 8 < len(free.data)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 96, 160, 3), np.uint8),
        np.zeros((3, 95, 160, 3), np.uint8),
        np.zeros((3, 96, 160, 3), np.float32),
    ],
)
def test_says_what_it_cannot_encode(frames: Frames) -> None:
    with pytest.raises(EncodeError, match="must be uint8 RGB of even size"):
        encode(frames, 12.0, SETTINGS)
