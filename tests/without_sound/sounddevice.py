"""In front of the real one on PYTHONPATH, this is a machine without PortAudio."""

raise OSError("PortAudio library not found")
