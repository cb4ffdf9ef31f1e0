"""Runs a program that ends when its parent ends: `launch.py <parent's pid> <program> <argument>…`.

A program of its own, not a preexec_fn: Python code between fork and exec can deadlock where the parent has threads. It costs 11 ms.
Linux only; elsewhere `headrace down` and the next `up` end what a killed supervisor left.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask the kernel for a SIGTERM at the parent's death, then become the program: same pid, same log."""
    parent, *argv = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it died before the kernel knew: no signal will ever come
            sys.exit("the supervisor died while this process started")
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.exit(f"cannot run {argv[0]}: {error}")


if __name__ == "__main__":
    main()
