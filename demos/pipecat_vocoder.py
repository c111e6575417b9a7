"""A processor for Pipecat pipelines that plays mel frames by `rtspecinv serve`; it needs pipecat-ai.

    pipeline = Pipeline([..., Vocoder(preset="hifigan-22k"), transport.output()])

`Vocoder` converts each MelFrame to 16-bit audio at the rate of the pipeline. After a TTSStoppedFrame it
returns the remaining samples; after an InterruptionFrame it drops them.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
from pipecat.frames import frames  # pip install pipecat-ai
from pipecat.processors.frame_processor import FrameProcessor

from rtspecinv.client import URL, AsyncClient


@dataclass
class MelFrame(frames.DataFrame):
    """Mel frames `(n_frames, n_mels)` in the format of the preset."""

    mel: np.ndarray


class Vocoder(FrameProcessor):
    """Sends mel frames to a server, and the returned hops down the pipeline."""

    def __init__(self, url: str = URL, **hello):
        super().__init__()
        self.url, self.hello = url, hello

    async def setup(self, setup):
        await super().setup(setup)
        self.rate = setup.audio_out_sample_rate
        self.client = AsyncClient(self.url, format="s16", output_rate=self.rate, **self.hello)
        await self.client.__aenter__()
        self.to_drop = self.client.latency
        self.flushed = asyncio.Event()
        self.listener = self.create_task(self.listen())

    async def cleanup(self):
        await self.cancel_task(self.listener)
        await self.client.__aexit__(None, None, None)
        await super().cleanup()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, MelFrame):
            await self.client.push(frame.mel)
            return
        if isinstance(frame, frames.InterruptionFrame):
            await self.client.reset()
        if isinstance(frame, frames.TTSStoppedFrame):
            self.flushed.clear()
            await self.client.ask("flush")
            await self.flushed.wait()
        await self.push_frame(frame, direction)

    async def listen(self):
        while True:
            said = await self.client.receive()
            if isinstance(said, dict):  # after a flush or a reset, a new stream begins
                self.to_drop = self.client.latency
                self.flushed.set()
                continue
            samples, self.to_drop = said[self.to_drop :], max(0, self.to_drop - len(said))
            if len(samples):
                await self.push_frame(frames.TTSAudioRawFrame(samples.tobytes(), self.rate, 1))
