"""The effects of a blend as rows of text."""

from types import SimpleNamespace

from dropopt.study.show.effects_table import by_stage, effect_rows

FIRST = SimpleNamespace(name="w_a", mean=-0.5, low=-1.0, high=0.25, best=0.125)
SECOND = SimpleNamespace(name="w_b", mean=0.5, low=0.25, high=1.0, best=0.875)


def efficacy(*names):
    """Two methods in the stages of ``names``."""
    stages = len(names)
    return SimpleNamespace(names=names, methods=((FIRST, SECOND),) * stages, pairs=((FIRST,),) * stages)


def test_rows_are_sorted_by_effect():
    """The largest mean comes first, as text."""
    rows = list(effect_rows((FIRST, SECOND)))
    assert [effect for effect, _ in rows] == [SECOND, FIRST]
    assert rows[0][1] == ("+0.50", "+0.25 to +1.00", "0.88")


def test_stages_are_named_by_their_suffix():
    """A single blend has no stage. Names without the suffix of a stage are numbered."""
    assert [one.stage for one in by_stage(efficacy(("w_a", "w_b")))] == [""]
    assert [one.stage for one in by_stage(efficacy(("w_a_early", "w_b_early"), ("x", "y")))] == ["early", "stage 2"]
