# cython: language_level=3, binding=True
"""Pool.apply and Pool.apply_async, compiled: of a small task, the steps of an interpreted method would be a tenth.

Methods of the class in process_pool.py. Nothing is imported: a spawned worker that imports the user's main module imports this too.
The collector sees whether the pool runs, and knows its usual limits.
"""


def apply(self, func, args=(), kwds={}, *, task_timeout=None, retries=None):
    """func(*args, **kwds), in a worker: returns its value or raises its error.

    task_timeout, retries: as for the pool, for this call; None: the pool's.
    """
    return self._core.call(self, func, args, kwds, task_timeout, retries)


def apply_async(self, func, args=(), kwds={}, callback=None, error_callback=None, *, task_timeout=None, retries=None):
    """As apply, but returns an AsyncResult at once. Never blocks.

    callback, error_callback: functions of the value or the error, called on the pool's callback thread.
    """
    if callback is not None or error_callback is not None:
        self._check_running()
        self._callbacks.start()
    return self._core.submit_call(self, func, args, kwds, callback, error_callback, task_timeout, retries)
