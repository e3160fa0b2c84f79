"""Pure functions of arrays: cells, scaling, learning, in JAX and optax.

`engine` compiles everything for one configuration; start there. It steps what `forecaster` and
`plain` define, through `stepper`. `network` is the LSTM, `gradients`, `learner` and `optimizers`
its online update, `trainer` the training over a file.
"""
