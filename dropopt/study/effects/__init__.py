"""What each parameter of a study does, over the whole search space: which, how much, where, when, and whether at all.

Samplers such as TPE concentrate their trials near good values. Means over these trials, and importances derived from
them, therefore say little about the space: a choice that explains everything is hardly varied any more. Here a model of
the outcome is fitted to the trials, and then evaluated over the space, with every parameter uniform over its range or
its choices and conditions respected. Where there are no trials, the intervals are wide.

Read the modules in this order; each imports only modules above it, those of :mod:`dropopt.study.blend`, the keys of
attributes, and the modules directly in ``dropopt``:

    factors     what was varied, and under which conditions
    basis       features of one factor, uncorrelated over the space
    design      main effects and interactions: features of a configuration, and covariances between trials
    response    one number for each trial, lower is better, pruned trials included
    posterior   settings of the model and coefficients of the features, drawn from the posterior
    model       from the trials to the draws
    intervals   estimates with their 90% intervals
    importance  Sobol indices
    profiles    the costs of the levels of a factor, on average and at best
    questions   which settings answer which question
    objective   what the study optimises, in words
    words       the answers in words
    applied     the same model with the applied drop rate in place of the requested one
    effects     what a user gets
    evaluator   importances for Optuna

The model is a functional analysis of variance. A response y, the logarithm of the loss where that fits better than the
loss itself, is a level, a function of each factor, a function of each pair, and noise. Each function is a sum of
features that have mean 0 and variance 1 over the space and are uncorrelated, with normal coefficients. A Sobol index
is then a sum of squared coefficients divided by another. The variances of the functions have wide priors and are
sampled, so that the intervals include the doubt whether a factor matters at all.

References
----------

- I. M. Sobol, "Global Sensitivity Indices for Nonlinear Mathematical Models and Their Monte Carlo Estimates",
  Mathematics and Computers in Simulation 55, 2001.
- X. Lu, A. Boukouvalas, J. Hensman, "Additive Gaussian Processes Revisited", ICML 2022 (uncorrelated parts).
- N. Durrande, D. Ginsbourger, O. Roustant, L. Carraro, "ANOVA Kernels and RKHS of Zero Mean Functions for Model-Based
  Sensitivity Analysis", Journal of Multivariate Analysis 115, 2013.
- F. Hutter, H. Hoos, K. Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
- R. M. Neal, "Slice Sampling", Annals of Statistics 31(3), 2003.
"""
