"""What the library says of one run, kept apart from what other threads say."""

import logging
import threading

from microdreamer.core.overhearing import overheard

log = logging.getLogger("microdreamer.images")


def test_lines_of_this_thread_are_kept_while_the_block_runs():
    logging.getLogger("microdreamer").setLevel(logging.INFO)
    try:
        kept = []
        log.warning("before")
        with overheard(kept.append):
            log.warning("%s:  two\nlines", "a")
            log.info("said")
            log.debug("not said")
            other = threading.Thread(target=lambda: log.warning("another thread's"))
            other.start()
            other.join()
            logging.getLogger("elsewhere").warning("not the library's")
        log.warning("after")
    finally:
        logging.getLogger("microdreamer").setLevel(logging.NOTSET)
    assert kept == ["a: two lines", "said"]


def test_two_threads_hear_each_its_own():
    kept = {"a": [], "b": []}
    ready = threading.Barrier(2)

    def work(name):
        with overheard(kept[name].append):
            ready.wait()
            log.warning(name)
            ready.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept == {"a": ["a"], "b": ["b"]}
