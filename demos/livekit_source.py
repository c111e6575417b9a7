"""Play mel frames in a LiveKit room by `rtspecinv serve`; this needs the package livekit.

`VocoderSource` is an audio source to publish: it takes mel frames, and `interrupt` silences it at once. Run
as a program, this file repeats a clip in the room of LIVEKIT_URL and LIVEKIT_TOKEN.
"""

import asyncio
import os

import torch
from livekit import rtc  # pip install livekit

import rtspecinv
from rtspecinv.client import URL, AsyncClient
from rtspecinv.measure.clip import render


class VocoderSource:
    """Sends mel frames to a server, and the returned hops to an audio source of LiveKit."""

    def __init__(self, url: str = URL, *, sample_rate: int = 48000, **hello):
        self.client = AsyncClient(url, format="s16", output_rate=sample_rate, **hello)
        self.source = rtc.AudioSource(sample_rate, 1, queue_size_ms=200)

    async def __aenter__(self):
        await self.client.__aenter__()
        self.to_drop = self.client.latency
        self.flushed = asyncio.Event()
        self.listener = asyncio.create_task(self.listen())
        return self

    async def __aexit__(self, *error):
        self.listener.cancel()
        await self.client.__aexit__(None, None, None)
        await self.source.aclose()

    async def push(self, mel):
        """Play frames `(n_mels,)` or `(n_frames, n_mels)`."""
        await self.client.push(mel)

    async def finish(self):
        """Play the remaining samples, and wait for the end of playback."""
        self.flushed.clear()
        await self.client.ask("flush")
        await self.flushed.wait()
        await self.source.wait_for_playout()

    async def interrupt(self):
        """Drop all samples not played yet, such as when the user speaks."""
        await self.client.reset()
        self.source.clear_queue()

    async def listen(self):
        while True:
            said = await self.client.receive()
            if isinstance(said, dict):  # after a flush or a reset, a new stream begins
                self.to_drop = self.client.latency
                self.flushed.set()
                continue
            samples, self.to_drop = said[self.to_drop :], max(0, self.to_drop - len(said))
            if len(samples):
                frame = rtc.AudioFrame(samples.tobytes(), self.source.sample_rate, 1, len(samples))
                await self.source.capture_frame(frame)  # waits while the queue of 200 ms is full


async def main():
    mel = rtspecinv.presets["hifigan-22k"](torch.from_numpy(render())).mT.numpy()
    room = rtc.Room()
    await room.connect(os.environ["LIVEKIT_URL"], os.environ["LIVEKIT_TOKEN"])
    async with VocoderSource(preset="hifigan-22k") as speaker:
        track = rtc.LocalAudioTrack.create_audio_track("rtspecinv", speaker.source)
        await room.local_participant.publish_track(track)
        while True:
            await speaker.push(mel)
            await speaker.finish()


if __name__ == "__main__":
    asyncio.run(main())
