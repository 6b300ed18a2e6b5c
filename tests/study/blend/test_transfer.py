"""Exported tables and priors by hand."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from random_evidence import table_of

from dropopt.config import ConfigError
from dropopt.study.blend.transfer import exported, imported, with_prior

AB = (("a", "b"),)
ROW = {"blend": [[0.5, 0.5]], "score": 0.0, "covariates": [0.0]}


def prior(count=3, **changed):
    rows = []
    for i in range(count):
        share = (i + 1) / (count + 1)
        rows.append({"blend": [[share, 1 - share]], "score": float(i), "covariates": [i * 10.0]})
    return {"names": [["a", "b"]], "columns": ["q"], "rows": rows} | changed


def test_export_by_hand():
    """The study's own rows, rounded to 6 digits, with null for an absent covariate."""
    table = replace(
        table_of(2, methods=2),
        names=AB,
        blend=np.array([[[1 / 3, 2 / 3]], [[0.5, 0.5]]]),
        score=np.array([0.12345678, -1.0]),
        covariates=np.array([[1234567.8, math.nan], [1.0, 2.0]]),
        columns=("p", "q"),
    )
    row = {"blend": [[0.333333, 0.666667]], "score": 0.123457, "covariates": [1234570.0, None]}
    other = {"blend": [[0.5, 0.5]], "score": -1.0, "covariates": [1.0, 2.0]}
    assert exported(table) == {"names": [["a", "b"]], "columns": ["p", "q"], "rows": [row, other]}
    assert exported(replace(table, number=np.array([-1, 5])))["rows"] == [other]
    again = imported(json.loads(json.dumps(exported(table))), AB)
    assert again.blend == pytest.approx(table.blend, abs=1e-6)
    np.testing.assert_allclose(again.covariates, table.covariates, rtol=1e-5)
    assert again.score.tolist() == again.value.tolist() == [0.123457, -1.0]
    assert (again.weight.tolist(), again.number.tolist(), again.trials) == ([1, 1], [-1, -1], 0)
    assert (again.names, again.columns) == (AB, ("p", "q"))


def test_import_keeps_usable_rows():
    """Shares are those of the study's names; rows without any, or without a finite score, are left out."""
    given = prior(4)
    given["rows"][1]["blend"] = [[0.0, 1.0]]
    given["rows"][2]["score"] = math.inf
    given["rows"][3]["covariates"] = [None]
    found = imported(given, (("a", "c"),))
    assert found.blend.tolist() == [[[1.0, 0.0]], [[1.0, 0.0]]]
    assert found.score.tolist() == [0.0, 3.0]
    np.testing.assert_array_equal(found.covariates, [[0.0], [math.nan]])
    assert imported(prior(0), AB).covariates.shape == (0, 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": [ROW | {"blend": [[0.5]]}]},
        {"rows": [ROW | {"blend": [[0.5, 0.5], [1, 0]]}]},
        {"rows": [ROW | {"score": "high"}]},
        {"rows": [ROW | {"covariates": [0.0, 1.0]}]},
        {"rows": [{"blend": [[0.5, 0.5]], "score": 0.0}]},
        {"rows": 5},
        {"names": None},
    ],
)
def test_an_invalid_prior_is_refused(changed):
    """Any table that does not have the shape of an export raises one error, which says what is expected."""
    said = r"^a prior must be a dictionary from export_evidence, got an invalid one: \w+Error\("
    with pytest.raises(ConfigError, match=said):
        imported(prior(**changed), AB)


def test_a_prior_about_other_names():
    """A prior that shares no name with the study is an error that names both."""
    with pytest.raises(ConfigError, match=r"^the prior is about a, b, but this study searches c, d$"):
        imported(prior(), (("c", "d"),))


@pytest.mark.parametrize(("trials", "rows", "weight"), [(0, 20, 0.5), (0, 3, 1.0), (90, 4, 0.25), (90, 100, 1 / 40)])
def test_a_prior_is_appended(trials, rows, weight):
    """Its rows follow the study's, with a total weight of 100 / (10 + t), at most 1 each and 40 rows.

    Columns are the union of both, NaN where one has none.
    """
    table = replace(table_of(5, methods=2), names=AB, trials=trials, unit=3.0, columns=("p", "r"))
    found = with_prior(table, prior(rows))
    used = min(rows, 40)
    assert len(found) == 5 + used
    assert found.weight[:5].tolist() == table.weight.tolist()
    assert found.weight[5:] == pytest.approx(weight)
    assert found.columns == ("p", "q", "r")
    assert found.covariates[:5, [0, 2]].tolist() == table.covariates.tolist()
    assert np.isnan(found.covariates[:5, 1]).all()
    assert np.isnan(found.covariates[5:, [0, 2]]).all()
    scores = found.score[5:]
    assert (found.covariates[5:, 1] == scores * 10).all()
    assert found.value[5:].tolist() == scores.tolist()
    expected = [*range(99, 79, -1), *(79 - np.linspace(0, 79, 20).astype(int))]
    assert scores.tolist() == (expected if rows == 100 else list(range(rows)))
    assert found.blend[5:, 0, 0] == pytest.approx((scores + 1) / (rows + 1))
    assert found.number.tolist() == [*range(5), *[-1] * used]
    assert (found.names, found.trials, found.unit) == (AB, trials, 3.0)
    for part in ("blend", "score", "value"):
        assert (getattr(found, part)[:5] == getattr(table, part)).all()


def test_equal_rows_of_a_prior_are_kept_in_their_order():
    table, ties = replace(table_of(5, methods=2), names=AB), prior(100)
    assert with_prior(table, prior(0)) is table
    for row in ties["rows"]:
        row["score"] %= 3
    order = sorted(range(100), key=lambda i: -ties["rows"][i]["score"])
    kept = order[:20] + [order[20 + i] for i in np.linspace(0, 79, 20).astype(int)]
    assert with_prior(table, ties).covariates[5:, -1].tolist() == [10.0 * i for i in kept]
