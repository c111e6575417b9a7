"""In front of the real one on PYTHONPATH, this is a machine without JACK."""

raise OSError("Could not find JACK library")
