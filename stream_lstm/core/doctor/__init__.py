"""The checks of `stream-lstm doctor`: why a loss stays at ln 2."""
