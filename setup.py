"""Builds the extensions. Everything else about the project is in pyproject.toml."""

import os
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
    sys.exit("ringpool needs 64-bit Linux: its rings stand on memfd and futex, which this system does not have.")

CORE = sorted(f"csrc/{name}" for name in os.listdir("csrc") if name.endswith(".c"))
HEADERS = sorted(f"csrc/{name}" for name in os.listdir("csrc") if name.endswith(".h"))
HARDENING = ["-std=c11", "-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-fvisibility=hidden"]
# A build with fault points (csrc/fault.h), for the tests that make processes die at them: a directory for the generated files.
FAULTS = os.environ.get("RINGPOOL_FAULTS")
LINKING = ["-Wl,-z,relro,-z,now", "-pthread"]


def extension(name, sources=()):
    return Extension(
        f"pool.{name}",
        [f"pool/{name}.pyx", *sources],
        include_dirs=["csrc"],
        depends=HEADERS,
        define_macros=[("RP_FAULTS", None)] if FAULTS else [],
        extra_compile_args=HARDENING,
        extra_link_args=LINKING,
    )


setup(
    ext_modules=cythonize(
        [
            extension("_buffers", CORE),
            extension("_blocks", CORE),
            extension("_codec", ["csrc/copy.c", "csrc/fill.c"]),
            extension("_calls"),
            extension("_instances"),
            extension("_results"),
            extension("_signals"),
            extension("_dispatch", CORE),
            extension("_worker", CORE),
            extension("_threads"),
        ],
        build_dir=os.path.join(FAULTS, "cython") if FAULTS else "build/cython",
        language_level=3,
    )
)
