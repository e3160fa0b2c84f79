"""The sans-IO core: holds state, knows no clock, socket, file or thread."""
