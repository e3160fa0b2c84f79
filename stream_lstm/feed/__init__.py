"""Where ticks come from and where predictions go: wire records, sockets, files."""
