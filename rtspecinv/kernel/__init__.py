"""The C kernel: push.c and push.h, which invert in programs without Python, and the constants they need."""

from rtspecinv.kernel.plan import kernel_plan

__all__ = ["kernel_plan"]
