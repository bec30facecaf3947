"""A Julia of several threads, and Python's own signals.

Julia stops its threads to collect garbage by SIGSEGV, and a process where it may not handle signals ends
there. Where it may, it takes SIGINT from Python as well, and Ctrl-C ends the process: that is given back.
"""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

OF_PYTHON = (signal.SIGINT, signal.SIGTERM)
HANDLES = "PYTHON_JULIACALL_HANDLE_SIGNALS"


@contextmanager
def shared_signals() -> Iterator[None]:
    """Julia starts within: it handles the signals it needs, Python those it had. Nothing is done for one
    thread, nor where the user has said who handles them.
    """
    threads = os.environ.get("PYTHON_JULIACALL_THREADS", os.environ.get("JULIA_NUM_THREADS", "1"))
    if threads == "1" or HANDLES in os.environ or os.name != "posix":
        yield
        return
    handlers = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig  # signal's own want the main thread
    for function in handlers:
        function.restype = ctypes.c_void_p
    get, put = handlers
    before = {number: get(ctypes.c_int(number)) for number in OF_PYTHON}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.environ[HANDLES] = "yes"
    try:
        yield
    finally:
        del os.environ[HANDLES]
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            put(ctypes.c_int(number), ctypes.c_void_p(handler))
