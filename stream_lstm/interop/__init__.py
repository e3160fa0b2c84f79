"""Networks of other frameworks in, ours out; each way is proved on numbers first."""
