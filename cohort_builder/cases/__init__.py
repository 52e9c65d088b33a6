"""Which cases of an export go into a cohort, and what of the others must not be left behind."""
