"""Helpers that every module may import: parameter checks, warnings, torch's modes, atomic file writing."""
