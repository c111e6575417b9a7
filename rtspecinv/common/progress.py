"""An optional progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Text = str | Callable[[], str]  # a function that returns the text may wait for a GPU
Show = Callable[[int, Text], None]  # arguments: number of steps since the last call; text


@contextmanager
def bar(total: int, label: str, wanted: bool) -> Iterator[Show]:
    """Return a context whose value is a function that advances a progress bar of `total` steps.

    The function does nothing unless `wanted` is true.

    Raises:
        ImportError: a bar is wanted, and tqdm is missing.
    """
    if not wanted:
        yield lambda n, text: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError('A progress bar needs tqdm: pip install "rtspecinv[progress]"') from error
    with tqdm(total=total, desc=label, unit="it") as shown:

        def show(n: int, text: Text) -> None:
            shown.set_postfix_str(text if isinstance(text, str) else text(), refresh=False)
            shown.update(n)

        yield show
