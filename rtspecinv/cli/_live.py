"""Implementation of `rtspecinv live`: magnitudes of a microphone are inverted and played."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress

import torch
from torch import Tensor

import rtspecinv
from rtspecinv.audio import DeviceError, FileSink, Microphone, Recording, SoundDeviceSink, TeeSink, one_device
from rtspecinv.cli._files import named, sound_output
from rtspecinv.cli._names import STRETCH_RATES
from rtspecinv.cli._playing import perform, print_performance
from rtspecinv.cli._transfer import inverter_of
from rtspecinv.cli._view import View
from rtspecinv.common.checks import count
from rtspecinv.common.threads import one_thread
from rtspecinv.live import Player
from rtspecinv.live.pace import Pace, slowed
from rtspecinv.live.transforms import Freeze, Pitch

_BEHIND_SECONDS = 10.0  # largest delay of a stretched microphone, after which its older frames are dropped
_MOST_SEMITONES = 36.0
_MOST_SECONDS = 1e7  # largest value of options in seconds: 100 days
_WARM_UP = 8  # pushes before playback, because the first ones are slow


def live(args: argparse.Namespace) -> None:
    """Invert the magnitudes of a microphone and play the sound until Ctrl-C."""
    _check(args)
    stft = rtspecinv.STFT(args.n_fft, args.hop_length)
    inverter = inverter_of(args, stft, channels=1)
    failure: DeviceError | SystemExit | None = None
    with one_thread(), ExitStack() as devices:
        microphone, sink = _open(args, stft, devices)
        with _file(args, microphone.sample_rate) as file:
            try:
                _play(args, inverter, microphone, sink, file)
            except (DeviceError, SystemExit) as error:  # the file is written with the sound so far
                failure = error
                sink.abort()
    if args.output:
        print(f"written       {named(args.output)}")
    if failure is not None:
        raise failure


def _open(
    args: argparse.Namespace, stft: rtspecinv.STFT, devices: ExitStack
) -> tuple[Recording, SoundDeviceSink]:
    """Return microphone and speakers, opened as one stream if they are one device, else as two."""

    def speakers(rate: int, device: int | str | None, input_channels: int = 0) -> SoundDeviceSink:
        queue_seconds = _queue_seconds(args, stft, rate)
        sink = SoundDeviceSink(
            rate,
            device=device,
            latency=args.latency,
            prefill_seconds=queue_seconds,
            queue_seconds=4 * queue_seconds,
            input_channels=input_channels,
        )
        return devices.enter_context(sink)

    both = None if args.two_streams else one_device(args.input, args.device)
    if both is not None:
        with suppress(DeviceError):  # some devices cannot record and play in one stream
            sink = speakers(args.sample_rate or round(both["default_samplerate"]), both["index"], 1)
            return sink.microphone, sink
    microphone = Microphone(args.sample_rate, device=args.input, latency=args.latency)
    devices.enter_context(microphone)
    return microphone, speakers(microphone.sample_rate, args.device)


def _queue_seconds(args: argparse.Namespace, stft: rtspecinv.STFT, rate: int) -> float:
    """Return the target length of the queue right after a hop was written, seconds."""
    queue_seconds: float = args.queue + stft.hop_length / rate
    return queue_seconds


def _wanted_seconds(args: argparse.Namespace, stft: rtspecinv.STFT, rate: int) -> float:
    """Return the target length of the queue when a frame arrives, seconds.

    If the queue falls to half of it, the player repeats the last frame.
    """
    wanted_seconds: float = max(args.queue, stft.hop_length / rate / 2)
    return wanted_seconds


def _play(
    args: argparse.Namespace,
    inverter: rtspecinv.StreamingInverter,
    microphone: Recording,
    sink: SoundDeviceSink,
    file: FileSink | None,
) -> None:
    stft, rate = inverter.stft, microphone.sample_rate
    hop_seconds = stft.hop_length / rate
    view = View(stft, rate, before_seconds=lambda: stft.padding / rate + microphone.latency_seconds)
    _print_start(args, inverter, microphone, sink)
    _warm_up(inverter)
    player = Player(
        inverter,
        TeeSink(view.meter, *filter(None, [file]), sink),
        full="drop_oldest",  # this limits the delay of late frames
        late="hold",
        max_frames=2 + int(args.queue / hop_seconds),
        queue_seconds=_queue_seconds(args, stft, rate),
        reserve_seconds=_wanted_seconds(args, stft, rate) / 2,
    )
    try:
        with player, view:
            perform(_frames(args, microphone, stft, sink, view), player, view)
    except KeyboardInterrupt:
        pass  # the command usually ends by Ctrl-C
    stats = player.stats
    print(f"played        {stats.n_samples / rate:.2f} s")
    print_performance(stats, view, sink)


def _check(args: argparse.Namespace) -> None:
    least = STRETCH_RATES[0]
    if not least <= args.stretch <= 1:
        raise ValueError(
            f"--stretch {args.stretch:g} is not from {least:g} to 1: the sound of a microphone can only be "
            "slowed down; for a file, use `rtspecinv play --rate`"
        )
    for option, low, high, unit in (
        ("queue", 0, 2, "seconds"),
        ("pitch", -_MOST_SEMITONES, _MOST_SEMITONES, "semitones"),
        ("freeze", 0, _MOST_SECONDS, "seconds"),
        ("seconds", 0, _MOST_SECONDS, "seconds"),
    ):
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{option} {value:g} is not from {low:g} to {high:g} {unit}")
    if args.sample_rate is not None:
        count(1, sample_rate=args.sample_rate)
    if args.seconds == 0:
        raise ValueError("--seconds 0 is too short: leave it out for no limit")


def _file(args: argparse.Namespace, rate: int) -> FileSink | nullcontext[None]:
    return FileSink(sound_output(args.output), rate) if args.output else nullcontext()


def _print_start(
    args: argparse.Namespace,
    inverter: rtspecinv.StreamingInverter,
    microphone: Recording,
    sink: SoundDeviceSink,
) -> None:
    rate, stft = microphone.sample_rate, inverter.stft
    parts = {
        "analysis": stft.padding / rate,
        "inverter": inverter.latency / rate,
        "queue": args.queue,
        "device": microphone.latency_seconds + sink.latency_seconds,
    }
    each = " + ".join(f"{1000 * seconds:.1f} {name}" for name, seconds in parts.items())
    resampled = "" if sink.device_rate == rate else f" + resampling to {sink.device_rate} Hz"
    untold = "" if parts["device"] else " + the device's blocks, which it reports when it plays"
    print(f"latency       {1000 * sum(parts.values()):.1f} ms = {each}{resampled}{untold}")
    streams = "two, for microphone and for speakers"
    if not isinstance(microphone, Microphone):
        streams = "one for microphone and speakers"
    print(f"streams       {streams}")
    setting = f"n_fft {stft.n_fft}, hop {stft.hop_length}, look-ahead {inverter.look_ahead} frames"
    print(f"inverter      {setting}, {inverter.n_iter} iterations, at {rate} Hz")
    print("headphones    use them: otherwise the microphone records the speakers, and feedback howls")
    print(f"keys          {'Enter freezes and unfreezes the sound, ' if _has_keys() else ''}Ctrl-C ends")
    sys.stdout.flush()


def _warm_up(inverter: rtspecinv.StreamingInverter) -> None:
    silence = inverter.stft.window.new_zeros(1, inverter.stft.n_freq)
    for _ in range(_WARM_UP):
        inverter.push(silence)


def _frames(
    args: argparse.Namespace,
    microphone: Recording,
    stft: rtspecinv.STFT,
    sink: SoundDeviceSink,
    view: View,
) -> Iterator[Tensor]:
    """Yield frames `(1, n_freq)` of the microphone, changed by the options and by the Enter key."""
    rate = microphone.sample_rate / stft.hop_length  # frames in a second
    freeze, pitch = Freeze(), Pitch(2 ** (args.pitch / 12))
    freeze_at = None if args.freeze is None else round(args.freeze * rate)
    end = None if args.seconds is None else round(args.seconds * rate)
    wanted_seconds = _wanted_seconds(args, stft, microphone.sample_rate)
    pace = Pace(microphone, sink, wanted_seconds, stft.hop_length)
    frames = rtspecinv.magnitude_frames(pace.blocks(), stft)
    for n, frame in enumerate(slowed(frames, args.stretch, round(_BEHIND_SECONDS * rate))):
        if n == end:
            return
        if n == freeze_at or _enter_pressed():
            freeze.on = not freeze.on
            view.remark = "   frozen" if freeze.on else ""
        takes_frame = pace.takes_frame()
        view.n_skipped = pace.n_skipped
        if not takes_frame:
            continue
        if n * stft.hop_length < stft.n_fft:  # silence first, so that the sink adds no fade-in
            frame = torch.zeros_like(frame)
        yield pitch(freeze(frame))


def _has_keys() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _enter_pressed() -> bool:
    """Return whether Enter was pressed since the last call."""
    if not _has_keys():
        return False
    try:
        import msvcrt
    except ImportError:
        import select

        pressed = bool(select.select([sys.stdin], [], [], 0)[0])
        return pressed and bool(sys.stdin.readline())
    pressed = False
    while msvcrt.kbhit():  # type: ignore[attr-defined,unused-ignore]
        pressed = msvcrt.getwch() == "\r"  # type: ignore[attr-defined,unused-ignore]
    return pressed
