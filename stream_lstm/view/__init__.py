"""What people look at: the live page and the report, of the same figures."""
