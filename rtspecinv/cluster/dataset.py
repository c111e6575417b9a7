"""Inversion of a Ray dataset of spectrograms to a dataset of samples, as a step of a user's pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rtspecinv.common.checks import count, finite
from rtspecinv.files.metadata import FIELDS
from rtspecinv.files.opening import Spectrogram, array_spectrogram
from rtspecinv.inputs import Array
from rtspecinv.many.runner import N_STREAMS, carry_out
from rtspecinv.many.tasks import Inversion, Settings
from rtspecinv.mel.config import MelConfig
from rtspecinv.mel.models import config_of
from rtspecinv.mel.spectrogram import Mel
from rtspecinv.stft import STFT
from rtspecinv.updates import Update

if TYPE_CHECKING:
    from ray.data import Dataset

GPU_STREAMS = 64  # number of streams per push on a GPU


def ray() -> Any:
    """Import Ray with Ray Data; the error names the install line."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f'Ray Data is missing ({error}): pip install "rtspecinv[cluster]"') from error
    return ray


def invert_dataset(
    dataset: Dataset,
    *,
    column: str = "magnitude",
    preset: str | os.PathLike[str] | Mel | MelConfig | None = None,
    layout: str | None = None,
    stft: STFT | None = None,
    sample_rate: int | None = None,
    scaling: str | None = None,
    update: str | Update | None = None,
    look_ahead: int | None = None,
    n_iter: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
) -> Dataset:
    """Return a dataset with the samples of each row's spectrogram, inverted by a stream.

    It is a `map_batches` whose actors each hold an inverter, so it can be combined with other steps of Ray
    Data. The rows of a batch are inverted side by side.

    Args:
        dataset: rows with a spectrogram: an array `([channels,] n_freq, n_frames)` or mel frames, or nested
            lists. Columns named as the fields of `save_spectrogram` (`sample_rate`, `n_fft`, `hop_length`,
            `n_samples`, `mel_config`, ...) describe the spectrogram of their row.
        column: name of the column with the spectrogram, which is not in the result.
        preset, layout, sample_rate, scaling: as in `listen`, for all rows.
        stft: transform of the magnitudes, of which `n_fft` and `hop_length` are used; default: what the
            columns state, or what the shape suggests.
        update, look_ahead, n_iter: as in `StreamingInverter`.
        batch_size: number of rows that an actor takes at once.
        workers: number of actors; default: as many as the cluster has CPUs for.
        num_cpus: number of CPUs of an actor, which uses as many threads.
        num_gpus: share of a GPU that an actor takes; default: 0, it works on its CPUs.

    Returns:
        The other columns, and `samples` (float32, `(n_samples,)`, or `(channels, n_samples)` for a
        spectrogram with channels), `sample_rate` in Hz, `sc` (spectral convergence in dB), `seconds` (of
        work), and `error`, which is empty unless the row could not be inverted.

    Raises:
        ImportError: Ray is not installed.
        ValueError, KeyError: a parameter is out of range; there is no such preset.
    """
    num_cpus, num_gpus = count(1, num_cpus=num_cpus), finite(0, num_gpus=num_gpus)
    size = n_actors(workers, num_cpus, num_gpus)
    given = {"update": update, "look_ahead": look_ahead, "n_iter": n_iter}
    settings = Settings(
        n_fft=None if stft is None else stft.n_fft,
        hop_length=None if stft is None else stft.hop_length,
        sample_rate=sample_rate,
        scaling=scaling,
        stream={name: value for name, value in given.items() if value is not None},
        device="cuda" if num_gpus else "cpu",
    )
    arguments = {
        "column": column,
        "mel": None if preset is None else config_of(preset),
        "layout": layout,
        "settings": settings,
        "n_threads": num_cpus,
    }
    return dataset.map_batches(
        Rows,
        batch_size=count(1, batch_size=batch_size),
        batch_format="numpy",
        compute=ray().data.ActorPoolStrategy(size=size),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        fn_constructor_kwargs=arguments,
    )


def n_actors(workers: int | None, num_cpus: int, num_gpus: float) -> int:
    """Return the number of actors; default: the largest number that the cluster has CPUs and GPUs for."""
    if workers is not None:
        return count(1, workers=workers)
    there = ray().cluster_resources()
    rooms = [there.get("CPU", 1) / num_cpus, *([there.get("GPU", 0) / num_gpus] if num_gpus else [])]
    return max(1, int(min(rooms)))


class Rows:
    """Actor that inverts batches of rows; see `invert_dataset`."""

    def __init__(
        self, column: str, mel: MelConfig | None, layout: str | None, settings: Settings, n_threads: int
    ) -> None:
        self.column, self.mel, self.layout, self.settings = column, mel, layout, settings
        self.n_threads = n_threads

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return the batch with samples in place of spectrograms."""
        if self.column not in batch:
            raise ValueError(f"Parameter column={self.column!r} is not one of {', '.join(batch)}")
        n_rows = len(batch[self.column])
        tasks = [
            Inversion(str(i), partial(self._read, batch, i), None, self.settings, measure=True)
            for i in range(n_rows)
        ]
        n_streams = N_STREAMS if self.settings.device == "cpu" else GPU_STREAMS
        with closing(carry_out(tasks, n_threads=self.n_threads, n_streams=n_streams)) as ended:
            for _ in ended:
                pass
        samples = np.empty(n_rows, object)
        for i, task in enumerate(tasks):
            samples[i] = np.zeros(0, np.float32) if task.error is not None else shaped(task)
        return {
            **{name: values for name, values in batch.items() if name != self.column},
            "samples": samples,
            "sample_rate": np.array([task.sample_rate for task in tasks]),
            "sc": np.array([task.convergence for task in tasks]),
            "seconds": np.array([task.work_seconds for task in tasks]),
            "error": np.array(["" if task.error is None else str(task.error) for task in tasks], object),
        }

    def _read(self, batch: Mapping[str, Array], row: int) -> Spectrogram:
        fields = {name: batch[name][row] for name in FIELDS if name in batch}
        return row_spectrogram(batch[self.column][row], f"row {row}", fields, self.layout, self.mel)


def shaped(task: Inversion) -> Array:
    """Return the samples of a task, without the axis of channels if the spectrogram had none."""
    return task.samples if task.has_channels else task.samples[0]


def row_spectrogram(
    value: Any, name: str, fields: Mapping[str, Any], layout: str | None, mel: MelConfig | None
) -> Spectrogram:
    """Return the spectrogram in a row of a table; `value` is an array or nested lists."""
    known = {field: given for field, given in fields.items() if given is not None and given == given}
    return array_spectrogram(_array(value), name, known, layout=layout, mel=mel)


def _array(value: Any) -> Array:
    """Return nested lists, or an array of arrays (dtype object), as an array of numbers."""
    array = np.asarray(value) if not isinstance(value, np.ndarray) else value
    if array.dtype == object:
        array = np.stack([_array(part) for part in array]) if len(array) else np.zeros(0, np.float32)
    return array
