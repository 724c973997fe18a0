"""Pictures that are odd: named by their path, said, or brought to one size."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from support.decoded import decoded
from support.layouts import png

from polyak.data import DataConfig
from polyak.data.sources import decode
from polyak.errors import DataError


def two_classes(folder, content: bytes | None = None, name: str = "odd.png", size=(8, 8)):
    """Class folders of grey-free pictures, one of which has this content."""
    drawn = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(2):
                image = drawn.integers(0, 256, (*size, 3), dtype=np.uint8)
                (place / f"{i}.png").write_bytes(png(image))
    if content is not None:
        (folder / "train" / "b" / name).write_bytes(content)
    return folder


def saved(image: Image.Image, kind: str, **options) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def png_of(side: int, bits: int, pixels: bytes) -> bytes:
    """A square RGB file with these compressed pixels, whatever they are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def huge_png(side: int) -> bytes:
    """A PNG that says it is huge; its pixels are not there."""

    return png_of(side, 8, b"")


RGB = Image.fromarray(np.full((8, 8, 3), 7, np.uint8))
DEEP = Image.fromarray(np.full((8, 8), 40_000, np.uint16))


@pytest.mark.parametrize(
    ("content", "name", "phrase"),
    [
        (b"", "empty.png", "cannot be decoded"),
        (b"<html>not found</html>", "page.jpg", "cannot be decoded"),
        (saved(RGB, "JPEG")[:200], "half.jpg", "cannot be decoded"),
        (saved(RGB, "PNG")[:50], "half.png", "cannot be decoded"),
        (huge_png(20_000), "huge.png", r"is too large \(.*decompression bomb"),
        (saved(DEEP, "PNG"), "deep.png", "has mode I;16; expected 8 bits"),
        (saved(DEEP, "TIFF"), "deep.tiff", "has mode I;16"),
        (saved(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), "f.tif", "has mode F"),
    ],
)
def test_a_picture_that_cannot_be_is_named_by_its_path(tmp_path, content, name, phrase):
    folder = two_classes(tmp_path, content, name)
    with pytest.raises(DataError, match=rf"train image 4 \('.*/train/b/{name}'\) {phrase}"):
        decoded(folder)


@pytest.mark.parametrize("cut", range(0, 160, 7))
def test_a_picture_cut_anywhere_is_read_whole_or_named(tmp_path, cut):
    content = saved(RGB, "PNG")
    folder = two_classes(tmp_path, content[:cut], "cut.png")
    try:
        said = f"cut.png, one of {len(decoded(folder)[0])}"
    except DataError as error:
        said = str(error)
    assert "cut.png" in said


def test_a_damaged_picture_of_a_table_is_named_by_file_and_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    good = png(np.zeros((4, 4, 3), np.uint8))
    for name, images in (
        ("train-00000-of-00002", [good] * 3),
        ("train-00001-of-00002", [good, b"x"]),
        ("test", [good] * 2),
    ):
        labels = [i % 2 for i in range(len(images))]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"image 4 \(row 1 of '.*train-00001-of-00002\.parquet'"):
        decoded(tmp_path)


def test_what_is_left_out_of_pictures_is_said_and_their_colours_are_as_before(tmp_path):
    clear = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    folder = two_classes(tmp_path, saved(clear, "PNG"), "clear.png")
    moving = [Image.new("RGB", (8, 8), (v, 0, 0)) for v in (10, 200)]
    content = saved(moving[0], "GIF", save_all=True, append_images=moving[1:])
    (folder / "train" / "b" / "moving.gif").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = decode(DataConfig(source=str(folder)))
    said = " | ".join(dataset.notes)
    assert "1 images have transparency, which is left out" in said
    assert "1 images have several frames, of which the first is read" in said
    assert dataset.train.images_nchw[4, :, 0, 0].tolist() == [200, 100, 50]
    assert dataset.train.images_nchw[5, 0, 0, 0] == 10


def test_colours_of_16_bits_are_said_and_sides_of_16_pixels_are_not(tmp_path):
    rows = (b"\0" + struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC) * 16) * 16
    content = png_of(16, 16, zlib.compress(rows))
    folder = two_classes(tmp_path, content, "deep.png", size=(16, 16))
    dataset = decode(DataConfig(source=str(folder)))
    assert dataset.notes == ("1 images have 16 bits a channel, of which the upper 8 are read",)
    assert dataset.train.images_nchw[4, :, 0, 0].tolist() == [0x12, 0x56, 0x9A]


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 1).repeat(16, 0))
    folder = two_classes(tmp_path, saved(wide.convert("RGB"), "PNG", exif=exif), size=(16, 16))
    train, _ = decoded(folder)
    turned = train.images_nchw[4, 0]
    assert turned[0].eq(0).all()
    assert turned[-1].eq(255).all()


class TestSizes:
    @pytest.fixture
    def mixed(self, tmp_path):
        """One picture twice as wide as high: black, white in its middle half."""
        pixels = np.zeros((16, 32), np.uint8)
        pixels[:, 8:24] = 255
        return two_classes(tmp_path, png(pixels), "wide.png", size=(16, 16))

    def test_several_sizes_are_refused_with_an_example_and_the_option(self, mixed):
        with pytest.raises(
            DataError, match=r"32×16 \(1 times, such as .*wide\.png.*data\.resize 32`"
        ):
            decoded(mixed)

    def test_the_middle_is_cut_out_or_all_is_squashed(self, mixed):
        cut, _ = decoded(mixed, resize=16)
        squashed, _ = decoded(mixed, resize=16, resize_how="squash")
        assert cut.images_nchw[4].eq(255).all()
        assert squashed.images_nchw[4, 0, 0].tolist()[:3] == [0, 0, 0]
        assert squashed.images_nchw[4, 0, 0, 8] == 255
        # What has the size already is not touched.
        assert cut.images_nchw[:4].equal(squashed.images_nchw[:4])

    def test_grey_pictures_stay_grey(self, tmp_path):
        for split in ("train", "test"):
            for label in ("a", "b"):
                place = tmp_path / split / label
                place.mkdir(parents=True)
                (place / "0.png").write_bytes(png(np.full((9, 12), 40, np.uint8)))
        train, _ = decoded(tmp_path, resize=6)
        assert train.images_nchw.shape == (2, 1, 6, 6)
        assert train.images_nchw.eq(40).all()

    def test_resizing_is_said_and_part_of_the_fingerprint(self, mixed):
        made = [
            decode(DataConfig(source=str(mixed), resize=side, resize_how=how))
            for side, how in ((8, "squash"), (8, "shorter-side-crop"), (16, "squash"))
        ]
        assert len({dataset.fingerprint for dataset in made}) == 3
        assert "9 images of 2 sizes are resized to 8×8 (squash)" in made[0].notes
