"""A cell: one measurement of one workload on one pool, in a process of its own.

Nothing here imports `pool`: workers import these modules, and those of another pool must not pay for ours. Whatever a workload
does to a pool it does to every pool, by the names of `multiprocessing.Pool`; pools that have other names are given these by an
adapter (`benchmarks/peers.py`).
"""
