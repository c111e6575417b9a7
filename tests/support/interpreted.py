"""Selection of Triton's interpreter, which must precede the first import of Triton.

conftest imports this file. The environment variable is then removed: only tests that set it again launch a
kernel on a CPU.
"""

from __future__ import annotations

import contextlib
import os

import torch

INTERPRET = "TRITON_INTERPRET"

if not torch.cuda.is_available():
    before = os.environ.get(INTERPRET)
    os.environ[INTERPRET] = "1"
    with contextlib.suppress(ImportError):
        import rtspecinv.engines.gpu.kernels  # noqa: F401
    if before is None:
        del os.environ[INTERPRET]
