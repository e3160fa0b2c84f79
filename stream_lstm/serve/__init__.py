"""The daemon: its loop, its signals and its heartbeats."""
