"""Ctrl-C and SIGTERM, held back until a convenient moment."""

import signal
import threading


class SignalCatcher:
    """A context that notes SIGINT and SIGTERM instead of letting them strike; a second SIGINT strikes at once.

    Outside the main thread, where Python allows no handlers, it catches nothing.

    Attributes:
        received: the number of the signal, or None.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.received: int | None = None
        self._before = {}

    def __enter__(self) -> "SignalCatcher":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
