"""Label codes and colours against a naive loop."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.data.label_coding import ColourCodes, IntegerCodes
from harness.data.semantic import IGNORED

signed = arrays(np.int16, (1, 4, 5), elements=st.integers(-40, 80))
unsigned = arrays(np.uint8, (1, 4, 5), elements=st.sampled_from([0, 10, 20, 40, 41, 254, 255]))


@given(stored=st.one_of(signed, unsigned))
def test_integer_codes_agree_with_a_loop(stored: np.ndarray) -> None:
    coding = IntegerCodes({10: 0, 20: 1, 40: 2}, ignored=frozenset({-1, 0}))
    found = coding.decode(stored)
    for code, index in zip(stored.ravel(), found.indices.ravel(), strict=True):
        assert index == coding.indices.get(int(code), IGNORED)
    strange = [str(c) for c in stored.ravel().tolist() if c not in {10, 20, 40, -1, 0}]
    assert dict(found.unknown) == dict(Counter(strange))


@given(stored=arrays(np.uint8, (3, 3, 4), elements=st.sampled_from([0, 5, 20, 30, 31, 128, 225, 224, 255])))
def test_colours_agree_with_a_loop(stored: np.ndarray) -> None:
    coding = ColourCodes({(255, 0, 0): 0, (0, 0, 255): 1, (255, 255, 255): 2}, tolerance=30)
    found = coding.decode(stored)
    strange: Counter[str] = Counter()
    entries = {**coding.colours, (0, 0, 0): IGNORED}
    for y, x in np.ndindex(3, 4):
        pixel = [int(v) for v in stored[:, y, x]]
        near = [i for c, i in entries.items() if max(abs(a - b) for a, b in zip(c, pixel, strict=True)) <= 30]
        assert found.indices[y, x] == (near[0] if near else IGNORED)
        strange.update([] if near else [str(tuple(pixel))])
    assert dict(found.unknown) == dict(strange)


def test_colours_that_the_tolerance_confuses_are_refused() -> None:
    with pytest.raises(ValueError, match="colours must differ by more than 2 x 30, the nearest two by 50"):
        ColourCodes({(200, 0, 0): 0, (250, 0, 0): 1}, tolerance=30)
