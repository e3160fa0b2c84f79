"""Proofs on data: causality, live equals replay, the value of carried state, look-ahead."""
