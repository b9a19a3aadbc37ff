"""Numbers as text: what was put in comes out, rounded once to what is shown."""

import numpy as np
import pytest
from helpers.pages import opened

from nnblip.report.packing import Pack, rounded


@pytest.mark.parametrize(
    ("most", "kind"), [(127, "i1"), (128, "i2"), (32_767, "i2"), (32_768, "i4"), (2**31 - 1, "i4"), (2.0**31, "f8")]
)
def test_whole_numbers_come_back_in_the_smallest_type_that_holds_them(most, kind):
    pack = Pack()
    numbers = np.array([-most, np.nan, 0, most])
    pack.add([1, 2, 3])
    place = pack.add(numbers)
    assert place[0] == kind
    said, read = opened(pack.text({"place": place}))
    assert said == {"place": place}
    np.testing.assert_array_equal(read(place), numbers)


def test_numbers_are_rounded_as_texts_are():
    values = np.random.default_rng(0).uniform(-3, 3, 1000).astype("float32")
    for digits in (3, 4):
        found = [f"{number / 10**digits:.{digits}f}" for number in rounded(values, digits) + 0.0]
        assert found == [
            f"{value:.{digits}f}" if round(float(value), digits) else f"{0:.{digits}f}" for value in values
        ]


def test_nothing_known_stays_so():
    pack = Pack()
    places = [pack.add([]), pack.add([np.nan]), pack.add([True, False])]
    _, read = opened(pack.text(None))
    assert read(places[0]).tolist() == []
    assert np.isnan(read(places[1])).all() and read(places[2]).tolist() == [1, 0]
