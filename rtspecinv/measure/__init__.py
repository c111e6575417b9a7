"""Measurement of times, streams and quality, and plots, for the commands, the benchmarks and the docs."""
