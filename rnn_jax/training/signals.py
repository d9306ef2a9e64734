"""Ctrl-C and SIGTERM, held back until a convenient moment."""

import signal
import threading
from typing import ClassVar


class SignalCatcher:
    """A context that notes SIGINT and SIGTERM instead of letting them strike; a second SIGINT strikes at once.

    In another thread than the main one, where Python allows no handlers, it knows what a catcher that is at work in
    the main thread has noted.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)
    _of_main_thread: ClassVar["SignalCatcher | None"] = None

    def __init__(self):
        self._received: int | None = None
        self._before = {}

    @property
    def received(self) -> int | None:
        """The number of the signal, or None."""
        main = SignalCatcher._of_main_thread
        return main._received if self._received is None and main is not None else self._received

    def __enter__(self) -> "SignalCatcher":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self._SIGNALS}
            SignalCatcher._of_main_thread = self
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if SignalCatcher._of_main_thread is self:
            SignalCatcher._of_main_thread = None

    def _note(self, number: int, frame) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
