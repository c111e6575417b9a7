"""Tests of the demos for voice agents, with the real packages if they are installed."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason='the extra is missing: pip install "rtspecinv[serve]"')
pytest.importorskip("soxr", reason='the extra is missing: pip install "rtspecinv[live]"')

import soxr
import torch
from served import Array, inverter_of, own_samples

import rtspecinv
from rtspecinv.measure.clip import render
from rtspecinv.serve import Limits, Server

LATE = 60.0
RATE = 24000
HELLO: dict[str, Any] = {"preset": "hifigan-22k", "look_ahead": 1, "n_iter": 1}
MEL = rtspecinv.presets["hifigan-22k"](torch.from_numpy(render()[:22050])).mT.numpy()


@pytest.fixture(autouse=True)
def demos(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "demos")


def wanted(mel: Array) -> Array:
    own = inverter_of(HELLO)
    whole = np.concatenate([own_samples(own, mel), own.flush().numpy()])
    heard = soxr.resample(whole, 22050, RATE)[round(own.latency * RATE / 22050) :]
    return np.rint(heard * 32768).clip(-32768, 32767).astype("<i2")


def run(test: Any) -> None:
    async def limited() -> None:
        async with Server(port=0, limits=Limits(streams=2)) as server:
            await asyncio.wait_for(test(f"ws://127.0.0.1:{server.port}/stream"), LATE)

    asyncio.run(limited())


@pytest.mark.filterwarnings("ignore")  # warnings of the other package
def test_a_pipecat_pipeline_speaks_and_is_interrupted():
    frames = pytest.importorskip(
        "pipecat.frames.frames", reason="pipecat is not installed: pip install pipecat-ai"
    )
    utils = importlib.import_module("pipecat.tests.utils")
    demo = importlib.import_module("pipecat_vocoder")

    async def test(url):
        vocoder = demo.Vocoder(url, **HELLO)
        sent = [
            *[demo.MelFrame(mel) for mel in MEL[:30]],
            utils.SleepFrame(0.3),
            frames.InterruptionFrame(),
            utils.SleepFrame(0.1),
            *[demo.MelFrame(mel) for mel in MEL],
            frames.TTSStoppedFrame(),
        ]
        down, _ = await utils.run_test(vocoder, frames_to_send=sent, start_timeout=30)
        kinds = [type(frame) for frame in down]
        middle = kinds.index(frames.InterruptionFrame)
        parts = []
        for part in (down[:middle], down[middle:]):
            audio = [frame for frame in part if isinstance(frame, frames.TTSAudioRawFrame)]
            assert {(frame.sample_rate, frame.num_channels) for frame in audio} == {(RATE, 1)}
            parts.append(np.frombuffer(b"".join(frame.audio for frame in audio), "<i2"))
        assert np.array_equal(parts[0], wanted(MEL)[: len(parts[0])])
        assert len(parts[0]) > RATE // 10
        assert np.array_equal(parts[1], wanted(MEL))
        assert kinds[-1] is frames.TTSStoppedFrame

    run(test)


def test_a_livekit_source_speaks_and_is_interrupted(monkeypatch):
    rtc = pytest.importorskip("livekit.rtc", reason="livekit is not installed: pip install livekit")
    demo = importlib.import_module("livekit_source")

    async def test(url):
        async with demo.VocoderSource(url, sample_rate=RATE, **HELLO) as speaker:
            captured: list[bytes] = []
            capture = speaker.source.capture_frame

            async def watched(frame: Any) -> None:
                captured.append(bytes(frame.data))
                await capture(frame)

            monkeypatch.setattr(speaker.source, "capture_frame", watched)
            track = rtc.LocalAudioTrack.create_audio_track("test", speaker.source)
            stream = rtc.AudioStream.from_track(track=track, sample_rate=RATE, num_channels=1)
            await speaker.push(MEL[:30])
            while not captured:
                await asyncio.sleep(0.01)
            await speaker.interrupt()
            await asyncio.sleep(0.3)
            captured.clear()
            await speaker.push(MEL)
            await speaker.finish()
            assert np.array_equal(np.frombuffer(b"".join(captured), "<i2"), wanted(MEL))
            loudest = 0
            async for event in stream:  # the audio that a room would receive
                loudest = max(loudest, np.abs(np.frombuffer(event.frame.data, np.int16)).max())
                if loudest > 1000:
                    break
            await stream.aclose()

    run(test)
