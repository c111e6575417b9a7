"""The ring that rtmixer plays, whose blocks come at any moment."""

from __future__ import annotations

import numpy as np
import pytest
from hand import hand_rtmixer
from hypothesis import given, settings
from hypothesis import strategies as st

from rtspecinv.audio.ring import RtmixerRing

LENGTH = 64
BLOCKS = st.lists(st.integers(0, LENGTH // 3), min_size=1, max_size=60)


@settings(deadline=None, max_examples=300)
@given(blocks=BLOCKS, between=BLOCKS)
def test_the_ring_keeps_count_wherever_the_device_comes(blocks, between):
    """Also where it comes to the end of what it was lent just while it is lent more."""
    pytest.importorskip("rtmixer", reason='rtmixer is not installed: pip install "rtspecinv[live]"')
    ring = RtmixerRing(hand_rtmixer(), LENGTH, {"channels": 1})
    mixer, sound = ring.stream, np.arange(1, 9, dtype=np.float32)[:, np.newaxis]
    mixer.between = iter(between)
    ring.start()
    for n in blocks:
        mixer.ask(n)
        ring.recycle()
        assert mixer.actions or ring.exhausted
        if ring.exhausted:
            mixer.stop()
            begin, n_heard = ring.claimed, len(mixer.heard)
            assert ring.store(begin, sound) == (True, True)
            ring.start()
            mixer.ask(n)
            mixer.ask(len(sound))
            heard = np.concatenate(mixer.heard[n_heard:])
            np.testing.assert_array_equal(heard[: len(sound)], sound[:, 0])
            assert ring.claimed == begin + len(heard)
