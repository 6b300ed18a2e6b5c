"""Which blend of dropout methods works: evidence, effects, the surrogate model and the sampler.

Read the modules in this order; each imports only modules above it (and the modules directly in ``dropopt``):

    arrays      types of arrays
    threads     threads of linear algebra
    names       which parameters form the blend
    mixture     shares on a simplex, terms of Scheffe's polynomial
    outcomes    one outcome for each trial, and the trials that count
    ranks       wins of a trial over the others, normal scores
    covariates  the other parameters as columns of numbers
    evidence    the table that the models read
    transfer    a table as JSON, and as the prior of another study
    gather      from trials to the table
    regression  Bayesian regression on Scheffe's polynomial
    effects     effects of methods and synergies of pairs, with credible intervals
    kernels     covariances between blends
    paths       functions drawn from the posterior
    surrogate   competing Gaussian processes and their weights
    climb       the maximum of a function over blends
    simplex     from shares to values that the search space contains
    suggested   which shares the trials suggested, and with which other parameters
    wrapped     what the sampler needs to know about the sampler that it wraps
    sampler     the Optuna sampler
    learned     what people, exports and later studies get

Terms
-----

method      A member of the dropout engine. A study searches a non-negative number for it, ``w_<method>``.
stage       A part of training (early, middle, late) with a blend of its own. One stage: all of training.
share       The number of a method divided by the sum of the numbers of its stage.
blend       The shares of all methods in all stages.
outcome     The final value of a trial, with its sign chosen such that higher is better.
wins        How many of the other trials a trial beats; ties count one half.
score       The rank of the wins as a quantile of the standard normal distribution (a "rank-normal score").
value       The outcome, standardised, with its tails clipped. It keeps the distances that ranks discard.
scale       On which of the two a surrogate is fitted: score or value.
covariate   Any other parameter of a trial (learning rate, pattern, ...), as one or more columns of numbers.
weight      How much a row of the table counts: 1 for a trial of this study, less for a row of a prior.
prior       The table of another study, appended with reduced weight.

Symbols and shapes
------------------

    n, B           rows of the table; candidate blends
    S, M, D, F     stages; methods; columns of covariates; random features
    w  (n, S, M)   blend; w[i, s, m] >= 0 and sum_m w[i, s, m] = 1
    z  (n,)        score
    v  (n,)        value
    c  (n, D)      covariates, with mean 0 and standard deviation 1
    r  (n,)        weight; the noise variance of row i is sigma^2 / r[i]
    y  (n,)        the target of a surrogate: z or v
    G  (n, n)      covariance of y in units of sigma^2, noise included
    a  (n,)        G^-1 y

Models
------

Two models read the table. Each is a pure function of it, and the table is a pure function of the *set* of finished
trials: rows are sorted by content, so that all workers compute the same floats whatever the order of trials.

*The interpretable model* (``regression``, ``effects``) is Scheffe's quadratic polynomial for mixtures,

    z = sum_m beta_m w_m + sum_{m<k} beta_mk w_m w_k + covariates + noise,

with Gaussian priors on the coefficients, averaged over prior scales. Its contrasts are the reported effects.

*The surrogate* (``kernels``, ``surrogate``, ``paths``) is a Gaussian process over blends and covariates,

    y ~ N(0, sigma^2 G),   sigma^2 ~ InverseGamma,

averaged over kernels and scales by marginal likelihood. The sampler maximises a function drawn from its posterior
(Thompson sampling).

References
----------

- H. Scheffe, "Experiments with Mixtures", J. R. Stat. Soc. B 20(2), 1958.
- J. A. Cornell, "Experiments with Mixtures", 3rd ed., Wiley, 2002.
- W. R. Thompson, "On the Likelihood that One Unknown Probability Exceeds Another", Biometrika 25, 1933.
- A. Hazen, "Storage to Be Provided in Impounding Reservoirs", Trans. ASCE 77, 1914 (the quantiles (rank - 1/2) / n).
- D. J. C. MacKay, "Bayesian Interpolation", Neural Computation 4(3), 1992 (evidence of a ridge regression).
- C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT Press, 2006.
- A. Rahimi and B. Recht, "Random Features for Large-Scale Kernel Machines", NeurIPS 2007.
- J. T. Wilson et al., "Efficiently Sampling Functions from Gaussian Process Posteriors", ICML 2020.
"""
