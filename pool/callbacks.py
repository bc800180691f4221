"""The thread that runs the users' callbacks: one a pool, in completion order, never the caller's and never the collector's."""

import queue
import threading

from pool import _signals as signals


class CallbackRunner:
    """Starts its thread with the first job that has a callback."""

    def __init__(self):
        self._jobs = queue.SimpleQueue()
        # Called by the collector when a job's callback is due. Not a method: one is interpreted, so a signal handler that raises
        # could get in before its first step, and the job would be lost.
        self.put = self._jobs.put
        self._lock = threading.Lock()
        self._thread = None
        self._core = None
        self._stopped = False

    def attach(self, core):
        """core: the dispatcher whose waiters must look again after a callback."""
        self._core = core

    def start(self):
        """Before the first job that has a callback. Does nothing when the thread runs."""
        # A signal handler that submits a job while this thread has the lock would wait for itself.
        with signals.held(), self._lock:
            if self._thread is None and not self._stopped:
                thread = threading.Thread(target=self._run, name="ringpool-callbacks", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self, timeout=None):
        """Ends the thread after the callbacks that are due. True when it has ended, False after `timeout` seconds."""
        with signals.held(), self._lock:
            self._stopped = True
        thread = self._thread
        if thread is None:
            return True
        self._jobs.put(None)
        if thread is threading.current_thread():
            return False
        thread.join(timeout)
        return not thread.is_alive()

    def is_current(self):
        """True on the callback thread."""
        return self._thread is threading.current_thread()

    def _run(self):
        core = self._core
        core.callback_thread = threading.get_ident()
        while (job := self._jobs.get()) is not None:
            job._run_callback()
            job = None
            core.ring()
