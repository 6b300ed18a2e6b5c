"""Which units are dropped: patterns, their random numbers, and the allocation of a rate to features."""
