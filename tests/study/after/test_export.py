"""The provenance that an export records, and which files it may replace."""

import optuna
import pytest
from blend_study import random_study
from optuna.trial import TrialState, create_trial

from dropopt import export
from dropopt.config import ConfigError, RunConfig
from dropopt.study.after.export import check_same_study, exported
from dropopt.study.blend.learned import export_evidence, learned

RUN = RunConfig.parse({"train": {"lr": 0.5}, "engine": {"r0": 0.25}})
CONFIG = RUN.model_dump(mode="json")


def test_the_provenance_is_complete():
    """Every fact that the study and the trial hold, by its name; facts that are missing have no entry."""
    study = optuna.create_study(study_name="my study", direction="maximize")
    modules = [{"net": {"path": "net.py", "sha256": digest}} for digest in ("a", "b", "c")]
    facts = {
        "space": "paper",
        "space_fingerprint": "f1",
        "data_fingerprint": {"train": "d1"},
        "complexity": 0.25,
        "code": [{"since": since, "modules": used} for since, used in zip((0, 1, 2), modules, strict=True)],
        "made_with": {"command": "dropopt run x", "versions": {"dropopt": "1"}},
    }
    for name, value in facts.items():
        study.set_user_attr(name, value)
    attributes = {"config": CONFIG, "val_accuracy": 0.9, "seed": 7}
    study.add_trial(create_trial(state=TrialState.FAIL))
    study.add_trial(create_trial(value=0.75, user_attrs=attributes))
    study.add_trial(create_trial(state=TrialState.RUNNING))
    configuration, found = exported(study, study.trials[1], " --storage s.db")
    assert configuration.run == RUN
    assert found == facts | {
        "study": "my study",
        "trial": 1,
        "state": "complete",
        "value": 0.75,
        "val_accuracy": 0.9,
        "seed": 7,
        "trials": "1 complete, 1 failed, 1 running",
        "code": modules[1],
        "study_command": "dropopt run x",
        "train_command": "dropopt train --study 'my study' --trial 1 --storage s.db",
    }
    bare = optuna.create_study(study_name="bare", directions=["minimize", "maximize"])
    bare.add_trial(create_trial(values=[1.0, 2.0], user_attrs={"config": CONFIG}))
    assert exported(bare, bare.trials[0], "")[1] == {
        "study": "bare",
        "trial": 0,
        "state": "complete",
        "value": [1.0, 2.0],
        "trials": "1 complete",
        "train_command": "dropopt train --study bare --trial 0",
    }


def test_the_provenance_tells_what_the_blend_is_worth():
    """Verdict and preferred blend are those that the trials give together with the evidence of an earlier study."""
    study, told = random_study(6), []
    study.add_trial(create_trial(value=9.0, user_attrs={"config": CONFIG}))
    for prior in (None, export_evidence(random_study(30, effect=-3.0, seed=1))):
        if prior is not None:
            study.set_user_attr("prior", prior)
        known = learned(study, prior=prior)
        told.append(exported(study, study.trials[-1], "")[1]["efficacy"])
        assert told[-1] == {"verdict": known.efficacy.verdict, "preferred": known.preferred}
    assert told[0]["preferred"] != told[1]["preferred"]


@pytest.mark.parametrize("kind", ["yaml", "json", "toml", "python"])
def test_only_an_earlier_export_of_the_same_study_is_replaced(tmp_path, kind):
    """Any other file is named with what it is; a file that does not exist is no obstacle."""
    by_suffix = tmp_path / f"best.{'py' if kind == 'python' else kind}"
    for path, given in ((tmp_path / "best.txt", kind), (by_suffix, None)):
        mine = "mine, trial 1, \u00e9"
        check_same_study(path, given, mine)
        export.save(path, RUN, {"study": mine, "trial": 1}, format=given)
        check_same_study(path, given, mine)
        for name in ("min", "mine", "mine, trial 2", f"{mine}, trial 1", "other"):
            with pytest.raises(ConfigError) as caught:
                check_same_study(path, given, name)
            what = "is of another study" if kind == "python" else f"is of study {mine!r}"
            assert str(caught.value) == f"{path} exists and {what}; give another file with -o, or --force to replace it"
        for text in (b"notes", b"", b"\xff\xfe\x00"):
            path.write_bytes(text)
            with pytest.raises(ConfigError) as caught:
                check_same_study(path, given, mine)
            assert str(caught.value).startswith(f"{path} exists and was not written by dropopt export; give another")
