"""Which units a step drops: patterns, their noise, and how a rate is shared out over features."""
