"""Boxes become shares of patches, and the numbers of a look are those of its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import nnblip
from nnblip.errors import InputError
from nnblip.examples import Example
from nnblip.experiments.gaze import gaze
from nnblip.experiments.pointing import boxes_of, covered


def test_a_box_covers_patches_by_its_share_of_them():
    assert covered([(0, 0, 1, 1)], (3, 4)).tolist() == [1.0] * 12
    assert covered([(0.25, 1 / 3, 0.5, 2 / 3)], (3, 4)).tolist() == pytest.approx([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])
    two = covered([(0, 0, 0.5, 1 / 3), (0.25, 0, 1, 1 / 6)], (3, 4))
    assert two.tolist() == pytest.approx([1, 1, 0.5, 0.5, *[0] * 8]), "what is in two boxes counts once"
    half = covered([(0.125, 0, 0.5, 1 / 6)], (3, 4))
    assert half[:4].tolist() == pytest.approx([0.25, 0.5, 0, 0]) and not half[4:].any()
    rng = np.random.default_rng(0)
    for _ in range(20):
        (left, right), (top, bottom) = np.sort(rng.uniform(size=2)), np.sort(rng.uniform(size=2))
        assert covered([(left, top, right, bottom)], (5, 7)).mean() == pytest.approx((right - left) * (bottom - top))


def test_boxes_are_pixels_of_the_picture():
    picture = np.zeros((20, 40, 3), np.uint8)
    assert boxes_of(Example(picture, "what", extra={"box": "10,5,40,20"})) == [(0.25, 0.25, 1.0, 1.0)]
    assert boxes_of(Example(picture, "what")) == []
    for wrong in ("10,5,41,20", "10,5,10,20", "10 5 40", "-1,0,4,4"):
        with pytest.raises(
            InputError, match=r"of 'what': expected 'left,upper,right,lower' in pixels of a picture of 40 x 20"
        ):
            boxes_of(Example(picture, "what", extra={"box": wrong}))


def test_what_is_said_of_a_look_is_its_weights(model):
    given = nnblip.demo.examples()[:3]
    width, height = given[0].image.size if hasattr(given[0].image, "size") else (64, 64)
    boxes = [f"0,0,{width // 2},{height}", f"{width // 2},0,{width},{height}", f"0,0,{width},{height}"]
    same = [replace(given[0], id=str(number), extra={"box": box}) for number, box in enumerate(boxes)]
    found = gaze(model, [*same, replace(given[1], extra={})], progress=False)
    left, right, every, none = (found["object"].isel(example=number) for number in range(4))
    assert np.allclose(left + right, 1, equal_nan=True) and np.allclose(every, 1, equal_nan=True)
    assert none.isnull().all() and found.area.values[:3] == pytest.approx([0.5, 0.5, 1]) and left.std() > 0.05

    node = nnblip.attention(model, given[:1], grad_cam=False)["question_encoder/crossattention"].isel(example=0)
    weights, roles = node.attention.values.astype(float), node.role.values
    for role in ("[CLS]", "function word"):
        own = weights[:, :, roles == role]
        entropy = -(own * np.log(own)).sum(-1) / np.log(own.shape[-1])
        assert found.entropy.isel(example=0).sel(role=role).values == pytest.approx(entropy.mean(-1), abs=1e-6)
        assert found.cls.isel(example=0).sel(role=role).values == pytest.approx(own[..., 0].mean(-1), abs=1e-6)
        side = own[..., 1:].reshape(*own.shape[:3], *node.attrs["grid"])
        share = side[..., : side.shape[-1] // 2].sum((-1, -2)) / side.sum((-1, -2))
        assert left.sel(role=role).values == pytest.approx(share.mean(-1), abs=1e-6)
