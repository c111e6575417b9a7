"""Presets: mel spectrograms of known models, each as the source code of the model computes it.

All except Kaldi's and NeMo's use a periodic Hann window, and all except Kaldi's reflect padding. Presets with
the same number of bands can differ in mel scale, added constants, frame positions and logarithm. The layout
is `(n_mels, n_frames)`; ESPnet, Parallel WaveGAN, SpeechT5, Kaldi and AST save `(n_frames, n_mels)`: pass
`mel.mT`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rtspecinv.common.checks import unknown_name
from rtspecinv.common.settings import SUFFIXES
from rtspecinv.mel.config import Compression, MelConfig
from rtspecinv.mel.spectrogram import Mel

_LN = Compression("ln", floor=1e-5)

# jik876/hifi-gan, meldataset.py (mel_spectrogram); sizes: Kong, Kim & Bae 2020, and the LJ Speech
# settings that NVIDIA/tacotron2, hparams.py has in common with it.
_HIFIGAN = MelConfig(22050, 1024, 256, fmax=8000, epsilon=1e-9, center="same", compression=_LN)

# openai/whisper, whisper/audio.py (log_mel_spectrogram).
_WHISPER = MelConfig(
    16000,
    400,
    160,
    power=2,
    drop_last=True,
    compression=Compression("log10", floor=1e-10, dynamic_range=8, gain=0.25, offset=1),
)

# kan-bayashi/ParallelWaveGAN, parallel_wavegan/bin/preprocess.py (logmelfilterbank) and
# egs/ljspeech/voc1/conf/parallel_wavegan.v1.yaml; statistics are the data's: pass them as mean and std.
_PARALLEL_WAVEGAN = MelConfig(
    22050, 1024, 256, fmin=80, fmax=7600, compression=Compression("log10", floor=1e-10)
)

# pytorch/audio, torchaudio.compliance.kaldi.fbank with its defaults, on samples within -1 to 1, as Kaldi's
# compute-fbank-feats without dither: 25 ms every 10 ms, powers at least as large as float32's epsilon.
_KALDI = MelConfig(
    16000,
    512,
    160,
    win_length=400,
    fmin=20,
    scale="htk",
    area_norm=False,
    power=2,
    center="snip",
    preemphasis=0.97,
    compression=Compression("ln", floor=2.0**-23),
    window="povey",
    periodic=False,
    slopes="mel",
    per_frame=True,
)

CONFIGS: dict[str, MelConfig] = {
    "hifigan-22k": _HIFIGAN,
    # NVIDIA/BigVGAN, meldataset.py, and its table of models in README.md (sample rate, bands, fmax, hop):
    # bigvgan_22khz_80band and bigvgan_v2_22khz_80band_fmax8k_256x; then bigvgan_v2_22khz_80band_256x.
    "bigvgan-22k-80": _HIFIGAN,
    "bigvgan-v2-22k-80": replace(_HIFIGAN, fmax=None),
    # The same; n_fft as in SWivid/F5-TTS, src/f5_tts/model/modules.py (get_bigvgan_mel_spectrogram).
    "bigvgan-24k-100": replace(_HIFIGAN, sample_rate=24000, n_mels=100, fmax=12000),
    # The same; n_fft as in hkchengrex/MMAudio, mmaudio/ext/mel_converter.py, which feeds this model.
    "bigvgan-v2-44k-128": replace(
        _HIFIGAN, sample_rate=44100, n_fft=2048, hop_length=512, n_mels=128, fmax=None
    ),
    # NVIDIA/tacotron2, layers.py (TacotronSTFT), stft.py, hparams.py.
    "tacotron2": replace(_HIFIGAN, epsilon=0.0, center=True),
    # keithito/tacotron, util/audio.py, hparams.py: 50 ms windows every 12.5 ms, 0 to 1 for -100 to 0 dB.
    "tacotron": MelConfig(
        20000,
        2048,
        250,
        win_length=1000,
        preemphasis=0.97,
        compression=Compression("dB", floor=1e-5, gain=0.01, offset=1, clip=(0, 1)),
    ),
    # jaywalnut310/vits, mel_processing.py, configs/ljs_base.json.
    "vits-ljs": replace(_HIFIGAN, fmax=None, epsilon=1e-6),
    # gemelo-ai/vocos, vocos/feature_extractors.py (MelSpectrogramFeatures), vocos/modules.py (safe_log), with
    # torchaudio's defaults: HTK scale, no norm.
    "vocos-24k": MelConfig(
        24000, 1024, 256, n_mels=100, scale="htk", area_norm=False, compression=Compression("ln", floor=1e-7)
    ),
    # SWivid/F5-TTS, src/f5_tts/model/modules.py (get_vocos_mel_spectrogram).
    "f5-tts": MelConfig(24000, 1024, 256, n_mels=100, scale="htk", area_norm=False, compression=_LN),
    "whisper": _WHISPER,
    # The same with 128 bands, as openai/whisper-large-v3's model card and config.json say.
    "whisper-large-v3": replace(_WHISPER, n_mels=128),
    "parallel-wavegan": _PARALLEL_WAVEGAN,
    # espnet/espnet, espnet2/tts/feats_extract/log_mel_fbank.py has the same by default, but for magnitudes
    # that are at least 1e-5, which only digital silence shows, and for a base that a recipe may choose.
    # coqui-ai/TTS, TTS/utils/audio/processor.py, numpy_transforms.py, TTS/config/shared_configs.py:
    # -4 to 4 for -100 to 0 dB over a reference of 20 dB.
    "coqui": MelConfig(
        22050,
        1024,
        256,
        compression=Compression("dB", floor=1e-8, reference=10.0, gain=0.08, offset=4, clip=(-4, 4)),
    ),
    # huggingface/transformers, src/transformers/models/speecht5/feature_extraction_speecht5.py.
    "speecht5": replace(_PARALLEL_WAVEGAN, sample_rate=16000),
    # FunAudioLLM/CosyVoice, examples/libritts/cosyvoice2/conf/cosyvoice2.yaml (feat_extractor), which calls
    # shivammehta25/Matcha-TTS, matcha/utils/audio.py (mel_spectrogram).
    "cosyvoice2": replace(_HIFIGAN, sample_rate=24000, n_fft=1920, hop_length=480),
    # shivammehta25/Matcha-TTS, matcha/utils/audio.py, configs/data/ljspeech.yaml: statistics of LJ Speech.
    # Its synthesis returns frames with them (decoder_outputs) and without (mel, as "hifigan-22k").
    "matcha": replace(_HIFIGAN, compression=replace(_LN, mean=-5.536622, std=2.116101)),
    # Rudrabha/Wav2Lip, audio.py (melspectrogram), hparams.py, with the padding of librosa before 0.10.
    "wav2lip": MelConfig(
        16000,
        800,
        200,
        fmin=55,
        fmax=7600,
        preemphasis=0.97,
        compression=Compression("dB", floor=1e-5, reference=10.0, gain=0.08, offset=4, clip=(-4, 4)),
    ),
    # NVIDIA/NeMo, nemo/collections/asr/parts/preprocessing/features.py (FilterbankFeatures), sizes as in
    # examples/asr/conf/fastconformer. Models with normalize: "per_feature" then subtract the mean of each
    # band of an utterance and divide by its deviation: pass these as mean and std. A version that pads with
    # zeros would differ in the first and last frames only.
    "nemo-asr": MelConfig(
        16000,
        512,
        160,
        win_length=400,
        power=2,
        preemphasis=0.97,
        compression=Compression("ln", guard=2.0**-24),
        periodic=False,
    ),
    # The same, examples/tts/conf/hifigan/hifigan.yaml.
    "nemo-hifigan": replace(_HIFIGAN, epsilon=0.0, periodic=False),
    "kaldi-fbank": _KALDI,
    # YuanGongND/ast, src/dataloader.py (_wav2fbank, and statistics of AudioSet in egs/audioset/run.sh):
    # a Hann window, and twice the standard deviation.
    "ast": replace(
        _KALDI,
        n_mels=128,
        window="hann",
        compression=replace(_KALDI.compression, mean=-4.2677393, std=2 * 4.5689974),
    ),
    # riffusion/riffusion-hobby, riffusion/spectrogram_params.py, riffusion/spectrogram_converter.py,
    # riffusion/util/image_util.py: grey values from 255 (silence) to 0. An image is relative to its own
    # peak, which it does not store; its reader uses 30e6 instead, for samples up to 32768.
    "riffusion": MelConfig(
        44100,
        17640,
        441,
        win_length=4410,
        n_mels=512,
        fmax=10000,
        scale="htk",
        area_norm=False,
        flip=True,
        compression=Compression(exponent=0.25, reference=30e6 / 32768, gain=-255, offset=255, clip=(0, 255)),
    ),
}


def find(name: object) -> MelConfig:
    """Return the configuration of a preset; an unknown name raises a `KeyError` with the nearest one."""
    if not isinstance(name, str) or name not in CONFIGS:
        raise UnknownPreset(str(unknown_name("preset", name, tuple(CONFIGS))))
    return CONFIGS[name]


def config_of(preset: str | os.PathLike[str] | Mel | MelConfig) -> MelConfig:
    """Return the configuration of a `MelConfig`, a `Mel`, the name of a preset, or the path of a file.

    Raises:
        KeyError: there is no such preset.
        TypeError: the value is none of these.
        FileNotFoundError, ValueError, ImportError: as in `MelConfig.load`.
    """
    if isinstance(preset, Mel):
        return preset.config
    if isinstance(preset, MelConfig):
        return preset
    if not isinstance(preset, str | os.PathLike):
        raise TypeError(
            f"Parameter preset is a {type(preset).__name__}: pass a name of rtspecinv.presets, a MelConfig, "
            "a Mel, or the path of a .json or .toml file"
        )
    if isinstance(preset, str) and (preset in CONFIGS or Path(preset).suffix.lower() not in SUFFIXES):
        return find(preset)
    return MelConfig.load(preset)


class Presets(Mapping[str, Mel]):
    """Mapping from the name of a model to its `Mel`, which is made on access.

    Examples:
        >>> import torch
        >>> from rtspecinv import presets
        >>> mel = presets["hifigan-22k"]  # a `Mel`
        >>> inverter = mel.inverter(look_ahead=1)
        >>> [inverter.push(frame).shape for frame in mel(torch.randn(512)).mT]
        [torch.Size([256]), torch.Size([256])]
    """

    def __getitem__(self, name: str) -> Mel:
        """Return a `Mel` on the CPU in float32; an unknown name raises a `KeyError` with the nearest one."""
        return Mel(find(name), device="cpu")

    def __iter__(self) -> Iterator[str]:
        return iter(CONFIGS)

    def __len__(self) -> int:
        return len(CONFIGS)

    def __contains__(self, name: object) -> bool:
        return name in CONFIGS

    def __repr__(self) -> str:
        return f"presets: {', '.join(self)}"


class UnknownPreset(KeyError):
    """Error for an unknown name of a preset; the message suggests the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would add quotation marks


presets = Presets()
