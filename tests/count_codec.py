"""Values of each kind to bytes and back, a number of times: what that costs is counted by test_instructions.py."""

import sys

from pool._codec import decode_bytes, encode
from pool.bench.apart.ringpool_cell.tasks import Point

VALUES = [12345, 1.5, "short string", (1, 2.0), {"x": 1, "y": 2.0, "label": "three"}, Point(1, 2.0, "three")]

for _ in range(int(sys.argv[1])):
    for value in VALUES:
        decode_bytes(encode(value))
