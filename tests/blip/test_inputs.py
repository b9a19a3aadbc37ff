"""Images, questions and answers: what the model reads."""

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor

from nnblip.blip.inputs import answer_ids, answer_text, answer_tokens, encode
from nnblip.demo import MODEL
from nnblip.errors import InputError, NnblipWarning
from nnblip.examples import load_image


def theirs_of():
    """transformers' own processor of images; its earliest versions that nnblip allows have none without torchvision."""
    try:
        return AutoImageProcessor.from_pretrained(MODEL, backend="pil")
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])


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
    theirs = theirs_of()(picture, return_tensors="pt").pixel_values
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
    theirs = theirs_of()(Image.fromarray(pixels), return_tensors="pt")
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
