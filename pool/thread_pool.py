"""ThreadPool (to be completed)."""

import multiprocessing.pool


class ThreadPool(multiprocessing.pool.ThreadPool):
    pass
