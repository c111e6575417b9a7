"""Module that replaces sounddevice on PYTHONPATH, to simulate a machine without PortAudio."""

raise OSError("PortAudio library not found")
