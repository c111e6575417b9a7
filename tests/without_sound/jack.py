"""Module that replaces jack on PYTHONPATH, to simulate a machine without JACK."""

raise OSError("Could not find JACK library")
