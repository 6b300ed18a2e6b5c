"""Every attribute that dropopt writes on a study or a trial, by its key.

What a person or a sampler may want later is written on the *trial*, before it ends: attributes of a study are
overwritten by whoever writes last.
"""

from __future__ import annotations

# -- user attributes of a study

SPACE = "space"
FINGERPRINT = "space_fingerprint"
BASE = "base"
MADE_WITH = "made_with"
DATA = "data_fingerprint"
PRIOR = "prior"

# -- user attributes of a trial

WORKER = "worker"
CONFIG = "config"
SEED = "seed"
ACCURACY = "val_accuracy"
REASON = "reason"
MESSAGE = "message"
TRACE = "trace"

# -- values of REASON

#: The study was stopped while the trial ran.
INTERRUPTED = "interrupted"
#: The worker of the trial died.
ABANDONED = "abandoned"
#: Trials with these reasons have no result. They do not count towards the number of trials, and others replace them.
UNCOUNTED = (INTERRUPTED, ABANDONED)
