"""Pure numerics: cells, scaling, learning. JAX, Flax and optax, and no mutable object."""
