"""Others who run the same network: one file for each of them.

A module has `step(given)`, which returns a call that takes one element x (1,) and returns its p,
or `sequence(given)`, whose call takes xs (n, 1) and returns their p (n,), or both. The state is
carried from call to call, starting at zero. `registry` has their list.
"""
