"""Work on several machines, by Ray: servers of live streams."""
