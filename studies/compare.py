"""Does the engine beat plain dropout, tuned as carefully? A comparison on 5,000 images of Fashion-MNIST.

    python studies/compare.py             or: dropopt compare no_dropout dropout compact blend
    python studies/compare.py --quick     the same with a small budget
    python studies/compare.py --help      all options

Each search space is an arm: the same number of trials, the same ranges of the settings of training. The best
configurations of each arm are trained again on fresh seeds, and the winners are compared on the test set.

Time on two cores: the command prints its cost first; about four hours, half an hour with --quick. Memory: about 1 GB
for each of two processes.
"""

from dropopt.study import Study

ARMS = ("no_dropout", "dropout", "compact", "blend")

study = Study(
    name="compare",
    data={"name": "fashion-mnist", "subset": 5000},
    model={"name": "small"},
    train={"epochs": 25, "amp": "auto", "channels_last": True},
    space="compact",
    n_trials=60,
)

if __name__ == "__main__":
    study.compare(ARMS)
