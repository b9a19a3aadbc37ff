"""Images, questions and answers: what the model reads, and what is refused."""

import io
import json
import struct
import time
import types
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features
from transformers import AutoImageProcessor

from nnblip import examples
from nnblip.blip.inputs import answer_ids, answer_text, answer_tokens, encode
from nnblip.demo import MODEL
from nnblip.errors import InputError, NnblipWarning
from nnblip.examples import Example, load_image

QUESTION = "what is the color of the star?"
WORDS = st.sampled_from(["what", "is", "the", "color", "of", "star", "circle", "red", "?", "how", "many"])


@pytest.fixture(scope="module")
def processor(model):
    return model.processor


@pytest.fixture(scope="module")
def longest(model):
    return model.config.text_config.max_position_embeddings


@pytest.fixture(scope="module")
def read(processor, longest):
    def read(image, question=QUESTION):
        return encode(processor, image, question, longest)

    return read


@pytest.fixture(scope="module")
def pixels():
    """A picture that is not symmetric in any way."""
    return np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def refuse(image, *words):
    with pytest.raises(InputError) as caught:
        load_image(image)
    for word in words:
        assert word in str(caught.value)


# --- the same picture, however it is given ------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif"])
def test_path_pil_image_and_array_of_a_picture_are_one_input(suffix, pixels, tmp_path, read):
    if suffix == "gif":  # at most 256 colours
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(pixels).save(path)
    given = [
        path,
        str(path),
        Image.open(path),
        Image.fromarray(pixels),
        pixels,
        pixels / 255,
        pixels.astype("f4") / 255,
    ]
    encoded = [read(image) for image in given]
    assert len({one.key for one in encoded}) == 1
    assert all(torch.equal(one.pixel_values, encoded[0].pixel_values) for one in encoded)
    np.testing.assert_array_equal(np.asarray(load_image(path)), pixels)


def test_the_key_tells_pictures_and_questions_apart(pixels, read):
    other = pixels.copy()
    other[5, 7, 1] ^= 1
    given = [
        read(pixels),
        read(other),
        read(pixels[:, ::-1]),
        read(pixels.reshape(53, 37, 3)),  # the same bytes in another shape
        read(pixels, "what is the shape of the star?"),
        read(pixels, QUESTION.removesuffix("?")),
    ]
    assert len({one.key for one in given}) == len(given)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_pictures_get_three_equal_channels(mode, pixels, tmp_path, read):
    picture = Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "gray.png")
    shown = np.repeat(np.asarray(picture, dtype=np.uint8)[..., None] * (255 if mode == "1" else 1), 3, axis=2)
    for image in (picture, tmp_path / "gray.png", shown[..., 0], shown[..., 0] / 255):
        np.testing.assert_array_equal(np.asarray(load_image(image)), shown)
        assert read(image).key == read(shown).key


def test_an_opaque_alpha_channel_changes_nothing(pixels, tmp_path, read):
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    for image in (opaque, opaque / 255, Image.fromarray(opaque), tmp_path / "opaque.png"):
        assert read(image).key == read(pixels).key


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_seen_as_transformers_sees_them(mode, pixels, read):
    alpha = np.random.default_rng(1).choice([0, 255], pixels.shape[:2]).astype(np.uint8)
    picture = Image.fromarray(np.dstack([pixels, alpha])).convert(mode)
    if mode == "P":
        picture.info["transparency"] = 3
    theirs = AutoImageProcessor.from_pretrained(MODEL, backend="pil")(picture, return_tensors="pt").pixel_values
    assert torch.equal(read(picture).pixel_values, theirs)


def test_palette_pictures_show_their_colours_and_no_foreign_warning(pixels, tmp_path):
    picture = Image.fromarray(pixels).quantize(16)
    colours = picture.getpalette()
    assert colours is not None
    shown = np.array(colours[:48]).reshape(16, 3)[np.asarray(picture)]
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "alpha.png", transparency=bytes([255] * 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("plain.png", "alpha.png"):
            np.testing.assert_array_equal(np.asarray(load_image(tmp_path / name)), shown)


def test_sixteen_bit_pictures_keep_their_brightness(tmp_path):
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30), dtype=np.uint16)
    for suffix in ("png", "tiff"):
        path = tmp_path / f"deep.{suffix}"
        Image.fromarray(deep).save(path)
        for image in (path, Image.fromarray(deep)):
            seen = np.asarray(load_image(image))
            # of 65535 to of 255, one step of rounding or truncation allowed
            assert np.abs(seen.astype(float) - deep[..., None] / 257).max() <= 1


def test_a_float_picture_is_read_as_its_array_or_refused(tmp_path):
    array = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    Image.fromarray(array).save(tmp_path / "float.tiff")
    for image in (Image.fromarray(array), tmp_path / "float.tiff"):
        try:
            seen = load_image(image)
        except InputError:
            continue
        np.testing.assert_array_equal(np.asarray(seen), np.asarray(load_image(array)))


def test_float_arrays_are_rounded_to_the_nearest_of_256_steps():
    seen = np.asarray(load_image(np.array([[0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 100.6 / 255, 1]])))
    assert seen[0, :, 0].tolist() == [0, 0, 1, 100, 101, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_by_its_exif_tag(orientation, pixels, tmp_path, read):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    stored = np.asarray(Image.open(path))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(np.asarray(load_image(path)), upright)
    assert read(path).key == read(Image.open(path)).key == read(upright).key


# --- what the model reads -----------------------------------------------------------------


def test_pixel_values_are_those_of_transformers_own_processor(pixels, read):
    theirs = AutoImageProcessor.from_pretrained(MODEL, backend="pil")(Image.fromarray(pixels), return_tensors="pt")
    assert torch.equal(read(pixels).pixel_values, theirs.pixel_values)


def test_pixel_values_are_resized_scaled_and_normalised(pixels, read, model):
    side = model.config.vision_config.image_size
    resized = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)) / 255
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])  # CLIP's
    values = read(pixels).pixel_values
    assert values.shape == (1, 3, side, side) and values.dtype == torch.float32
    np.testing.assert_allclose(values[0].permute(1, 2, 0).numpy(), (resized - mean) / std, atol=1e-5)


def test_a_question_is_read_between_cls_and_sep(pixels, read):
    encoded = read(pixels, "What is the COLOR of the star?")
    assert encoded.tokens == ("[CLS]", "what", "is", "the", "color", "of", "the", "star", "?", "[SEP]")
    vocabulary = json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    assert encoded.input_ids.tolist() == [[vocabulary[token] for token in encoded.tokens]]
    assert encoded.question == "What is the COLOR of the star?"


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, min_size=1, max_size=30))
def test_a_question_of_any_length_has_a_token_for_each_word_and_no_padding(words, read, processor):
    encoded = read(np.zeros((2, 2), np.uint8), "  ".join(words))
    assert encoded.tokens == ("[CLS]", *words, "[SEP]")
    assert encoded.input_ids.shape == (1, len(words) + 2)
    assert processor.tokenizer.pad_token_id not in encoded.input_ids


def test_the_longest_question_runs_and_one_word_more_is_refused(pixels, read, model, longest):
    fits = read(pixels, " ".join(["star"] * (longest - 2)))
    assert len(fits.tokens) == longest
    model.own_answer(fits, model.image_embeds(fits), empty=True)
    with pytest.raises(InputError) as caught:
        read(pixels, " ".join(["star"] * (longest - 1)))
    assert f"question of {longest + 1} tokens" in str(caught.value) and f"at most {longest}" in str(caught.value)


# a zero-width space and a control character are not white space to Python, but no word to the tokenizer either
WORDLESS = ["", "   ", "\n\t", "\u200b", "\x00"]


@pytest.mark.parametrize("question", [*WORDLESS, "\ud800", None, 5, ["what"], b"what"])
def test_a_question_without_a_word_is_refused(question, pixels, read):
    with pytest.raises(InputError, match="question"):
        read(pixels, question)


def test_an_unknown_word_in_a_question_warns_and_shows_what_is_read(pixels, read):
    with pytest.warns(NnblipWarning, match=r"'what is the zebra\?'.*\[CLS\] what is the \[UNK\] \? \[SEP\]"):
        encoded = read(pixels, "what is the zebra?")
    assert encoded.tokens == ("[CLS]", "what", "is", "the", "[UNK]", "?", "[SEP]")


def test_known_words_do_not_warn(pixels, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(pixels)


# --- answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["red", "light blue", "two", "no"])
def test_an_answer_and_its_tokens_say_the_same(text, processor, longest):
    vocabulary = json.loads((MODEL / "tokenizer.json").read_text())["model"]["vocab"]
    for spelling in (text, text.upper(), f"  {text} "):
        assert answer_ids(processor, spelling, longest) == [vocabulary[word] for word in text.split()]
    assert answer_text(processor, answer_ids(processor, text, longest)) == text
    assert answer_text(processor, [*answer_ids(processor, text, longest), vocabulary["[SEP]"]]) == text


def test_positions_of_the_answer_are_named_by_what_the_decoder_reads_there(processor, longest, model, pixels, read):
    ids = answer_ids(processor, "light blue star", longest)
    assert answer_tokens(processor, ids) == ("[DEC]", "light", "blue")
    assert answer_tokens(processor, ids[:1]) == ("[DEC]",)
    fed = model.forward_inputs(read(pixels), ids)["decoder_input_ids"][0].tolist()
    assert processor.tokenizer.convert_ids_to_tokens(fed[1:]) == ["light", "blue"]
    assert fed[0] == model.config.text_config.bos_token_id and len(fed) == 3


@pytest.mark.parametrize("answer", [*WORDLESS, "\ud800", None, 5, ["red"], "[SEP]", "red [SEP]", "[PAD]"])
def test_an_answer_without_words_or_with_special_tokens_is_refused(answer, processor, longest):
    with pytest.raises(InputError, match="answer"):
        answer_ids(processor, answer, longest)


def test_an_unknown_word_in_an_answer_is_an_error_that_shows_what_is_read(processor, longest):
    with pytest.raises(InputError, match=r"'red zebra'.*'red \[UNK\]'"):
        answer_ids(processor, "red zebra", longest)


def test_the_longest_answer_runs_and_one_word_more_is_refused(processor, longest, model, pixels, read):
    ids = answer_ids(processor, " ".join(["red"] * longest), longest)
    assert len(ids) == longest
    with torch.no_grad():
        model._module(**model.forward_inputs(read(pixels), ids))
    with pytest.raises(InputError) as caught:
        answer_ids(processor, " ".join(["red"] * (longest + 1)), longest)
    assert f"answer of {longest + 1} tokens" in str(caught.value) and f"at most {longest}" in str(caught.value)


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


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tiff", "webp", "bmp"])
def test_a_truncated_file_is_refused_and_named(suffix, share, pixels, tmp_path):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refuse(path, str(path))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "AVIF"])
def test_a_damaged_file_is_read_or_refused_but_never_fails_otherwise(form, pixels, tmp_path):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
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
@pytest.mark.parametrize(("width", "height"), [(40_000, 40_000), (12_000, 12_000), (10_001, 10_000), (2_000_000, 51)])
def test_an_absurdly_large_picture_is_refused_without_decoding_it(width, height, tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    start = time.perf_counter()
    refuse(path, str(path), "too large", "100,000,000")
    assert time.perf_counter() - start < 1


def test_a_picture_of_just_the_allowed_size_is_read(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "MAX_PIXELS", pixels.shape[0] * pixels.shape[1])
    Image.fromarray(pixels).save(tmp_path / "fits.png")
    for image in (pixels, tmp_path / "fits.png"):
        assert load_image(image).size == (53, 37)
    for image in (np.vstack([pixels, pixels[:1]]), Image.fromarray(np.vstack([pixels, pixels[:1]]))):
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
