"""What the library says of one run, for those who show it elsewhere than on a terminal."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def overheard(keep: Callable[[str], object], least: int = logging.INFO) -> Iterator[None]:
    """While the block runs, `keep` is called with each line that the library logs from this thread, at the level `least` or above.

    Lines below the level of the logger `microdreamer`, which is the program's to set, are not made at all.
    """
    thread = threading.get_ident()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                keep(" ".join(record.getMessage().split()))

    handler, logger = Keep(least), logging.getLogger("microdreamer")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
