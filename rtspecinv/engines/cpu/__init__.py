"""The engine for the CPU: compiled by numba, one stream after the other."""
