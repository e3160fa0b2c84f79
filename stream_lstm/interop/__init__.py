"""Weights from and for other frameworks, and series through other libraries.

`conversion` imports and exports weights; each conversion is compared with the original network
before anything is written. `source` is the form between two frameworks, `parity` the comparison,
`keras_model`, `torch_state` and `onnx_graph` the formats. `predictor` is the public object around
a session, `frames` reads its tables and files, `notices` warns at the caller's line, `river` is a
classifier for River, `transports` reads ticks from WebSockets and brokers.
"""
