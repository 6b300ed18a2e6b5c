"""Confirmation: the best configurations of a search, trained again on fresh seeds, and comparisons of searches.

The best trial of a search is optimistic: it is the best of many, each with a seed of its own. Read the modules in this
order; each imports only modules above it:

    intervals   means, paired differences and their t intervals; Holm's correction
    encoding    the parameters of trials as numbers
    posterior   the expected score of each trial, by a model that has the seed's noise in it
    candidates  which configurations are trained again
    race        which of them are clearly worse and are not trained further
    runs        the runs of a study: one trial for each configuration and seed
    ledger      starts the runs and records their results
    results     what the runs say: means, the winner, how optimistic the search was
    reading     which networks are evaluated on the test split: those of the winner, once
    arms        the arms of a comparison, and whether they can be compared
    comparison  what the confirmed arms say: differences to the best baseline, and a verdict
"""
