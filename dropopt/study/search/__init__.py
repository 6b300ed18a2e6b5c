"""How a study searches: samplers and pruners by name, the forecast pruner, and priors from earlier studies."""
