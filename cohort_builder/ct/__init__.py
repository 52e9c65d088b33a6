"""CT series: split into regular stacks, checked, and decoded to HU."""
