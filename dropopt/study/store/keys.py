"""The key of every attribute that dropopt writes on a study or a trial.

Facts that a user or a sampler may need later are stored on the *trial*, before it ends. An attribute of a study is
overwritten by the worker that writes last. The sampler of :mod:`dropopt.study.blend`, which works without this package,
has one more attribute on a trial; see ``STAMP`` there.
"""

from __future__ import annotations

# -- user attributes of a study

#: The name of the search space.
SPACE = "space"
#: The hash of the search space.
FINGERPRINT = "space_fingerprint"
#: The text of the file of the search space, for workers that do not have the file.
SPACE_TEXT = "space_text"
#: The number of trials, sampler, pruner and seed of the last ``dropopt run``.
PLAN = "plan"
#: The configuration that all trials share.
BASE = "base"
#: Versions, command and machine at the time the study was created.
MADE_WITH = "made_with"
#: A random id in the names of the study's checkpoints and weights, because studies in other storages may have the same
#: name and the same folder; absent from studies of earlier versions.
ID = "id"
#: The hash of each split of the data.
DATA = "data_fingerprint"
#: D_complexity of the training images; absent if the space searches baselines, which do not use it.
COMPLEXITY = "complexity"
#: The files and hashes of the user's own code; see :mod:`dropopt.study.store.code`.
CODE = "code"
#: The sizes of the data and of the network; see :class:`dropopt.facts.Facts`.
FACTS = "facts"
#: The line that resumes the study, without a password.
COMMAND = "command"
#: The evidence about the blend that the study started from.
PRIOR = "prior"
#: The portfolio of a study that began with one: its name and its entries. Of a trial, the name of its entry, such as
#: ``portfolio 3``; absent from other trials.
PORTFOLIO = "portfolio"
#: Whether the first trials, the anchors and those of the portfolio and the prior, have all been enqueued: ``pending``
#: or ``done``.
QUEUE = "queue"

#: The number of classes of the data.
CLASSES = "classes"
#: The choices of the setting ``sites`` that the network offers; a study keeps them from its first trial on.
SITES = "sites"

# -- user attributes of a study that trains configurations of another study again, or tests them

#: The name of the study whose configurations it trains again on fresh seeds.
CONFIRMS = "confirms"
#: The name of the study whose best configuration it evaluates on the test split.
TESTS = "tests"
#: The id of that study, because another study may have its name later; absent if it has none.
OF = "of"
#: The configurations that take part in a confirmation, those of earlier ones included; the number of seeds, and how the
#: configurations were chosen, in the confirmation that began or ended last.
ENTRANTS, SEEDS, CHOSEN_BY = "entrants", "seeds", "chosen_by"
#: Whether each seed draws a validation split of its own; absent from confirmations by earlier versions.
FRESH_SPLITS = "fresh_splits"
#: What the winner is chosen by, ``loss`` or ``accuracy``; absent if it is what the search optimised.
JUDGED_BY = "judged_by"
#: The configurations that are not trained further, each with the reason: attributes such as ``out:7``, by the number of
#: their trial. Each has its own, because two confirmations may drop configurations at the same time. The second name is
#: used if the winner is chosen by something else than the search optimised.
OUT, OUT_JUDGED = "out", "out_judged"
#: The readings of the test split: for each, the configuration, the number of runs and the time.
READINGS = "readings"

# -- user attributes of a trial

#: The id of the worker that runs the trial.
WORKER = "worker"
#: The heartbeat of that worker, renewed while the trial runs; see :mod:`dropopt.study.store.lease`.
LEASE = "lease"
#: The whole configuration.
CONFIG = "config"
#: The training seed.
SEED = "seed"
#: The validation accuracy of the best epoch; of a pruned trial, of its last epoch.
ACCURACY = "val_accuracy"
#: The validation loss of the best epoch.
BEST_LOSS = "best_val_loss"
#: The epoch with the lowest smoothed validation loss.
BEST_EPOCH = "best_epoch"
#: The duration of training.
SECONDS = "seconds"
#: The number of epochs that the trial has trained.
EPOCHS = "epochs"
#: The number of parameters of the network.
PARAMETERS = "parameters"
#: The mean applied drop rate over places and epochs; absent from trials of earlier versions.
APPLIED = "applied_rate"
#: Why the trial failed: the name of an error, or one of the values below.
REASON = "reason"
#: The message of that error.
MESSAGE = "message"
#: The end of its traceback.
TRACE = "trace"
#: The study whose prior enqueued the trial.
SOURCE = "from"
#: Whether the trial, which ended without a result, is to run again; see :mod:`dropopt.study.store.retries`.
RETRY = "retry"
#: The number of the first attempt at the configuration; absent from the first attempt.
RETRY_OF = "retry_of"
#: The number of the trial that this one replaces.
PREVIOUS = "previous"
#: Which attempt at the configuration this is; absent from the first attempt.
ATTEMPT = "attempt"

#: The number of the pruned trial that this one continues to its end; see :mod:`dropopt.study.store.continuation`.
CONTINUES = "continues"

#: The expected calibration error on the validation split.
VAL_ECE = "val_ece"
#: Loss, accuracy and expected calibration error on the test split.
TEST_LOSS, TEST_ACCURACY, TEST_ECE = "test_loss", "test_accuracy", "test_ece"

#: The name of an anchor, such as ``no dropout`` or ``element 0.1``; absent from other trials.
ANCHOR = "anchor"

# -- system attributes of a trial, which dashboards do not show

#: Losses, accuracy and drop rates of each epoch; see :mod:`dropopt.study.store.history`.
HISTORY = "dropopt:history"

# -- values of REASON

#: The study was stopped while the trial was running.
INTERRUPTED = "interrupted"
#: The worker of the trial died.
ABANDONED = "abandoned"
#: The trial was started although another worker had started the last one of the study, or the same retry.
GIVEN_BACK = "given back"
#: Trials with these reasons have no result. They do not count towards the number of trials, and are replaced.
UNCOUNTED = (INTERRUPTED, ABANDONED, GIVEN_BACK)
#: The trial did not end within its time limit, or memory ran out.
TIME_LIMIT, OUT_OF_MEMORY = "time limit", "out of memory"
