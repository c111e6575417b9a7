"""Tests of the mailbox for frames."""

from __future__ import annotations

import threading

import numpy as np

from rtspecinv.live import Mailbox


def test_mailbox_yields_the_latest_frame_until_it_is_closed():
    mailbox, frame, seen = Mailbox(), np.zeros(3), []
    threading.Timer(0.02, mailbox.put, [np.full(3, 7.0)]).start()
    frames = iter(mailbox)
    seen.append(next(frames)[0])  # waits for the first frame
    for value in (1.0, 2.0, 3.0):
        frame[:] = value
        mailbox.put(frame)
    frame[:] = 9
    seen += [next(frames)[0], next(frames)[0]]
    mailbox.close()
    assert seen == [7, 3, 3]
    assert list(frames) == []
    assert list(Mailbox.__iter__(mailbox)) == []
