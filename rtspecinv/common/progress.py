"""A progress bar, if somebody wants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Text = str | Callable[[], str]  # or what makes it, which may have to wait for a GPU
Show = Callable[[int, Text], None]  # more steps are done, and what to say beside the bar


@contextmanager
def bar(total: int, label: str, wanted: bool) -> Iterator[Show]:
    """Give a function that moves a bar of `total` steps; it does nothing if no bar is wanted.

    Raises `ImportError` if tqdm is missing.
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
