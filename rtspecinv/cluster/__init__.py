"""Work on several machines by Ray: many spectrograms (`dataset`, `folder`), live streams (`fleet`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtspecinv.cluster.dataset import invert_dataset

__all__ = ["invert_dataset"]


def __getattr__(name: str) -> Any:
    """Import `invert_dataset` when it is used, because `cluster.client` needs neither Ray nor torch."""
    if name in __all__:
        from rtspecinv.cluster import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
