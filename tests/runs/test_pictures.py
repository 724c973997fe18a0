"""Pictures of a user become the pixels that training had, or are refused by their path."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from polyak.data.pictures import resized
from polyak.errors import ConfigError, DataError
from polyak.runs import PictureReader, picture_files, read_picture

GREY, RGB, SQUARE = (1, 6, 8), (3, 6, 8), (3, 6, 6)


@pytest.fixture
def pixels_hwc():
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def saved(tmp_path, picture, name="a.png", **options):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def test_pixels_come_as_they_are_written(tmp_path, pixels_hwc):
    path = saved(tmp_path, Image.fromarray(pixels_hwc))
    expected = torch.from_numpy(pixels_hwc).permute(2, 0, 1)
    assert torch.equal(read_picture(path, RGB), expected)
    grey = saved(tmp_path, Image.fromarray(pixels_hwc[..., 0]), "grey.png")
    assert torch.equal(read_picture(grey, GREY)[0], expected[0])
    # Grey pictures for a network of colours.
    assert torch.equal(read_picture(grey, RGB), expected[:1].expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_eight_bits_is_read(tmp_path, pixels_hwc, mode):
    picture = Image.fromarray(pixels_hwc).convert(mode)
    kind = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    path = saved(tmp_path, picture, f"a.{kind}")
    with Image.open(path) as again:
        for shape, wanted in ((GREY, "L"), (RGB, "RGB")):
            # Colours first: a palette or CMYK has no grey of its own.
            plain = again if again.mode == "L" else again.convert("RGB")
            pixels = np.asarray(plain.convert(wanted)).reshape(6, 8, -1).transpose(2, 0, 1)
            assert np.array_equal(read_picture(path, shape).numpy(), pixels)


def test_what_is_left_out_is_counted(tmp_path, pixels_hwc):
    clear = Image.fromarray(pixels_hwc).convert("RGBA")
    clear.putalpha(7)
    reader = PictureReader(RGB)
    for name in ("a.png", "b.png"):
        reader.read(saved(tmp_path, clear, name))
    [note] = reader.notes()
    assert note.startswith("2 images have transparency, which is left out")


def test_a_picture_is_turned_as_its_exif_says(tmp_path, pixels_hwc):
    picture = Image.fromarray(pixels_hwc.transpose(1, 0, 2))
    exif = picture.getexif()
    exif[0x0112] = 6
    path = saved(tmp_path, picture, exif=exif)
    turned = np.rot90(pixels_hwc.transpose(1, 0, 2), k=-1)
    assert np.array_equal(read_picture(path, RGB).numpy(), turned.transpose(2, 0, 1))


def test_another_size_is_refused_unless_resizing_is_asked_for(tmp_path, pixels_hwc):
    big = Image.fromarray(pixels_hwc).resize((32, 12), Image.Resampling.NEAREST)
    path = saved(tmp_path, big)
    with pytest.raises(DataError, match=r"a\.png' is 32×12; expected 6×6, as in training"):
        read_picture(path, SQUARE)
    # As data sets are resized.
    for how in ("squash", "shorter-side-crop"):
        expected = np.asarray(resized(big, 6, how=how)).transpose(2, 0, 1)
        assert np.array_equal(read_picture(path, SQUARE, resize=how).numpy(), expected)


def test_resizing_makes_squares_only():
    with pytest.raises(ConfigError, match="resizing makes squares"):
        PictureReader(RGB, "squash")


def test_a_picture_of_the_right_size_is_not_resampled(tmp_path, pixels_hwc):
    path = saved(tmp_path, Image.fromarray(pixels_hwc[:, :6]))
    for how in ("squash", "shorter-side-crop"):
        assert torch.equal(read_picture(path, SQUARE, resize=how), read_picture(path, SQUARE))


def bomb():
    """A PNG that says it is 60,000 by 60,000."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def half(pixels_hwc, kind):
    file = io.BytesIO()
    Image.fromarray(pixels_hwc).resize((200, 200)).save(file, kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.mark.parametrize("what", ["nothing", "text", "half a JPEG", "half a PNG", "a bomb"])
def test_what_cannot_be_decoded_is_named(tmp_path, pixels_hwc, what):
    path = tmp_path / "broken.png"
    content = {
        "nothing": b"",
        "text": b"<html>not found</html>",
        "half a JPEG": half(pixels_hwc, "JPEG"),
        "half a PNG": half(pixels_hwc, "PNG"),
        "a bomb": bomb(),
    }[what]
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"image '.*broken\.png' (cannot be decoded|is too large)"):
        read_picture(path, SQUARE, resize="squash")


def test_more_than_eight_bits_are_refused_by_name(tmp_path):
    deep = Image.fromarray(np.zeros((6, 8), dtype=np.uint16))
    with pytest.raises(DataError, match=r"deep\.png' has mode I;16; expected 8 bits"):
        read_picture(saved(tmp_path, deep, "deep.png"), GREY)


def test_a_network_of_other_channels_is_said_to_be_for_tensors(tmp_path, pixels_hwc):
    with pytest.raises(ConfigError, match="takes 4 channels"):
        read_picture(saved(tmp_path, Image.fromarray(pixels_hwc)), (4, 6, 8))


def test_folders_give_their_pictures_in_order_and_files_what_they_are(tmp_path, pixels_hwc):
    picture = Image.fromarray(pixels_hwc)
    names = ("x/b.PNG", "x/a.png", "x/sub/c.jpg", "x/.hidden/d.png", "x/._e.png")
    for name in names:
        saved(tmp_path, picture, name)
    (tmp_path / "x" / "notes.txt").write_text("no picture")
    odd = saved(tmp_path, picture, "odd", format="PNG")
    found = picture_files([odd, tmp_path / "x"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "odd",
        "x/a.png",
        "x/b.PNG",
        "x/sub/c.jpg",
    ]


def test_what_is_not_there_or_holds_no_picture_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"image is '.*absent'"):
        picture_files([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty' has no picture"):
        picture_files([tmp_path / "empty"])
