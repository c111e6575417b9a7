"""The engine for the CPU: code compiled by numba that advances one stream after the other."""
