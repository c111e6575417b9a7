"""Measuring: times and streams, quality, the machine, plots; what commands, benchmarks and docs share."""
