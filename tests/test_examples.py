"""Examples, their forms and their pictures: what is read, and what is refused."""

import io
import struct
import types
import zlib

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageFile

from nnblip import examples
from nnblip.errors import InputError
from nnblip.examples import Example, load_image


def refuse(image, *words):
    with pytest.raises(InputError) as caught:
        load_image(image)
    for word in words:
        assert word in str(caught.value)


# --- pictures that cannot be read ---------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    refuse(tmp_path / "none.png", str(tmp_path / "none.png"), "no such file")
    refuse(str(tmp_path), str(tmp_path))


def test_an_image_that_is_a_long_text_is_refused():
    # base64 where a path is expected: longer than a file name may be
    refuse("iVBORw0KGgo" * 500)


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    refuse(path, str(path), "empty")


def test_a_text_named_png_is_no_image(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("this is not a picture\n" * 50)
    refuse(path, str(path), "not an image")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO"])
def test_the_formats_that_are_meant_are_read(form, pixels, tmp_path):
    path = tmp_path / "picture.img"
    more = dict(save_all=True, append_images=[Image.fromarray(pixels[::-1])]) if form == "MPO" else {}
    Image.fromarray(pixels).save(path, form, **more)
    assert load_image(path).size == (53, 37)
    with Image.open(path) as opened:
        assert load_image(opened).size == (53, 37)


@pytest.mark.parametrize("form", ["EPS", "PDF", "ICO", "TGA", "PCX", "SGI", "IM", "DDS", "JPEG2000", "ICNS"])
def test_other_formats_are_refused_whatever_they_are_called(form, pixels, tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).resize((64, 64)).save(path, form)
    refuse(path, "not an image, expected PNG, JPEG, WEBP, GIF, BMP, TIFF or PPM")


def test_ghostscript_is_never_started(pixels, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **more: started.append(given) or 1 / 0)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path, "EPS")
    with pytest.raises(ZeroDivisionError), Image.open(path) as opened:
        opened.load()
    assert len(started) == 1, "Pillow alone would start it"
    refuse(path, str(path))
    with Image.open(path) as opened:
        refuse(opened, "a file of format EPS, expected PNG")
    assert len(started) == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff", "webp", "bmp"])
def test_a_truncated_file_is_refused_and_named(suffix, share, pixels, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(path, str(path))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_damaged_file_is_read_or_refused_but_never_fails_otherwise(form, pixels, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    whole, path, random = stream.getvalue(), tmp_path / "damaged.img", np.random.default_rng(0)
    outcomes = set()
    for number in range(200):
        data = bytearray(whole)
        reach = min(len(data), 300) if number % 2 else len(data)  # in the header, or anywhere
        for position in random.integers(0, reach, 4):
            data[position] = random.integers(256)
        path.write_bytes(data)
        try:
            load_image(path)
        except InputError as error:
            assert str(path) in str(error)
            outcomes.add("refused")
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}")
    assert outcomes == {"refused"}, "no mutant was damaged enough: this test says nothing"


def png_header(width, height):
    """A PNG that claims a size and holds almost nothing."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(40_000, 40_000), (12_000, 12_000), (8193, 6144), (2_000_000, 26)])
def test_an_absurdly_large_picture_is_refused_without_decoding_it(width, height, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it is decoded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    refuse(path, str(path), "too large", "50,331,648")


def test_a_picture_of_just_the_allowed_size_is_read(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "MAX_PIXELS", pixels.shape[0] * pixels.shape[1])
    Image.fromarray(pixels).save(tmp_path / "fits.png")
    for image in (pixels, tmp_path / "fits.png"):
        assert load_image(image).size == (53, 37)
    taller = np.vstack([pixels, pixels[:1]])
    Image.fromarray(taller).save(tmp_path / "taller.png")
    for image in (taller, taller / 255, tmp_path / "taller.png", Image.fromarray(taller)):
        refuse(image, "53 x 38", "too large")


@pytest.mark.parametrize(
    "shape",
    [(), (5,), (0, 5), (5, 0, 3), (0, 0), (5, 5, 0), (5, 5, 1), (5, 5, 2), (5, 5, 5), (3, 64, 64), (1, 5, 5, 3)],
)
def test_arrays_of_other_shapes_are_refused(shape):
    for dtype in (np.uint8, np.float32):
        refuse(np.zeros(shape, dtype), str(shape), "expected (height, width)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 255.0])
def test_float_arrays_with_a_value_outside_0_to_1_are_refused(value):
    array = np.full((4, 5, 3), 0.5)
    array[2, 3, 1] = value
    refuse(array, "expected [0, 1]")


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, complex, "U3", object, "M8[s]"])
def test_arrays_of_other_numbers_are_refused(dtype):
    refuse(np.zeros((4, 5), dtype), "expected uint8")


@pytest.mark.parametrize("image", [None, 5, b"\x89PNG", [[1, 2], [3, 4]], torch.zeros(3, 4, 4), Image.Image()])
def test_what_is_no_picture_is_refused(image):
    refuse(image, "given as image")


def test_a_picture_without_pixels_is_refused():
    refuse(Image.new("RGB", (0, 5)), "no pixels (0 x 5)")


# --- examples -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        ("i.png", "q", "a"),
        ["i.png", "q", "a"],
        {"image": "i.png", "question": "q", "answer": "a", "split": "test"},
        types.SimpleNamespace(image="i.png", question="q", answer="a"),
        Example("i.png", "q", "a"),
    ],
)
def test_an_example_may_be_a_tuple_a_mapping_or_a_record(form):
    assert Example.of(form) == Example("i.png", "q", "a", question_type=None, id=None)


def test_a_mapping_keeps_the_type_and_name_of_an_example():
    given = {"question": "q", "image": "i.png", "id": "7", "question_type": "color"}
    assert Example.of(given) == Example("i.png", "q", None, "color", "7")
    assert Example.of(("i.png", "q")) == Example("i.png", "q")


@pytest.mark.parametrize("form", ["qa", "i.png", ("i.png",), (1, 2, 3, 4), {"image": "i.png"}, None, 5, {"i.png", "q"}])
def test_what_is_no_example_is_refused(form):
    with pytest.raises(InputError, match=r"expected \(image, question\)"):
        Example.of(form)
