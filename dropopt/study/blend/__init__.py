"""Which blend of methods works: evidence, effects, the surrogate model and the sampler."""
