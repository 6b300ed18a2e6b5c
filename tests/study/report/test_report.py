"""The report of a study: one file that needs no network, in any colour scheme, for any study."""

import html
import re
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest
from browser import needs_browser, open_page
from optuna.trial import create_trial
from PIL import Image
from shown_study import shown_study

from dropopt.config import ConfigError
from dropopt.study.report.build import build
from dropopt.study.report.charts import charts
from dropopt.study.report.write import check_name, check_same_report, write, write_pictures
from dropopt.study.show import series
from dropopt.study.show.snapshot import Snapshot
from dropopt.study.store.keys import ACCURACY, SECONDS

EVIL = "<script>alert('1')</script> $x^2$ & co"


@pytest.fixture(scope="module")
def study():
    """A study whose effects can be estimated."""
    return shown_study(30)


@pytest.fixture(scope="module")
def shot(study):
    return Snapshot.of(study)


@pytest.fixture(scope="module")
def small():
    """The report of a small study of an odd name."""
    return build(shown_study(4, name=EVIL), "")


def test_a_report_has_every_part_and_names_no_other_site():
    """The parts that the report promises; each chart has a text alternative; ids are unique; nothing is fetched."""
    text = build(shown_study(12, made_with={"python": "3.12", "versions": {"torch": "2"}}), " --storage a.db").html
    for part in (
        "What was searched",
        "The best configuration",
        "Compared with the anchors",
        "Which dropout, how much, where, when, and whether at all",
        "Most at layer conv2 (0.350 on average), least at layer conv1 (0.175).",
        "The mean rate rises from 0.075 after epoch 1 to 0.450 after epoch 6.",
        "3 of 11 trials were pruned: 54 epochs were trained instead of 66, which saved 18.2%",
        "1 failed: Broken",
        "torch 2",
        "dropopt run digits --seed 1 --n-trials 12 --storage again.db",
        "dropopt export --study photos --storage a.db -o best-photos.yaml",
    ):
        assert part in text, part
    assert text.count("<svg") == text.count('role="img" aria-label="') == text.count('<svg viewBox="0 0 ') == 6
    assert (text.count("<style"), text.count("<metadata"), text.count("xlink")) == (1, 0, 0)  # of the page alone
    assert not re.search(r"https?:|src=|@import|<link|<script", text)
    assert "$" not in text.split("Reproduce it")[0]  # labels are no formulas
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("began", "storage", "line"),
    [
        ("--no-anchors --portfolio none", "", "--no-anchors --portfolio none"),
        ("--n-trials 10 --storage a.db --seed 3", " --storage a.db", "--seed 3"),
        ("--prior old", "", "--prior old@runs/dropopt.db"),
        ("--prior old --storage 'my a.db'", " --storage 'my a.db'", "--prior 'old@my a.db'"),
        ("--prior old@b.db --storage a.db", " --storage a.db", "--prior old@b.db"),
        ("--prior old.json", "", "--prior old.json"),
    ],
)
def test_the_line_that_repeats_a_study_has_the_options_that_it_began_with(began, storage, line):
    """Also those that only a new study needs, with a prior that the new storage does not have, and all its trials."""
    made = {"command": f"dropopt run digits {began}"}
    study = shown_study(3, made_with=made, command="dropopt run digits --seed 1")
    text = html.unescape(build(study, storage).html)
    assert f">dropopt run digits {line} --n-trials 3 --storage again.db<" in text


def test_charts_draw_the_numbers_of_the_study(shot):
    """Each interval from end to end with its value inside, each curve, each point and each cell."""
    drawn = {chart.name: chart.figure.axes[0] for chart in charts(shot)}
    totals = [(one.name, one.importance.total) for one in shot.effects.factors]
    intervals = {
        "importance": [(name, total.low, total.value, total.high) for name, total in totals],
        "effects": [(one.name, one.low, one.mean, one.high) for one in shot.learned.efficacy.methods[0]],
    }
    for name, expected in intervals.items():
        names = [label.get_text() for label in drawn[name].get_yticklabels()]
        lines = iter(drawn[name].lines)
        rows = [(label, *next(lines).get_xdata(), *next(lines).get_xdata()) for label in names]
        assert [(label, low, value, high) for label, low, high, value in rows] == expected
    curves = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in drawn["curves"].lines]
    assert curves == [(curve.epochs, curve.values) for curve in series.curves(shot)]
    cells = drawn["rates"].collections[0].get_array()
    assert cells.ravel().tolist() == [value for row in series.rates(shot).rows for value in row]
    assert drawn["rates"].collections[0].get_clim() == (0, cells.max())  # 0 is always of the same colour
    assert drawn["rates"].yaxis_inverted()  # the first layer is at the top
    for name in ("curves", "rates", "blend"):
        assert all(tick == round(tick) for tick in drawn[name].get_xticks()), "no half epochs"
    assert (drawn["curves"].get_yscale() == "log") == series.is_logarithmic(series.curves(shot)) is True
    assert [drawn["curves"].yaxis.get_major_formatter()(value) for value in (0.05, 1.0, 20.0)] == ["0.05", "1", "20"]
    points = {tuple(point) for group in drawn["cost"].collections for point in group.get_offsets().tolist()}
    assert points == {(point.seconds, point.score) for point in series.cost(shot).points}


def test_charts_have_names_and_are_described_in_words(shot):
    """The axes say what they show, and the text alternatives have the numbers."""
    found = {chart.name: chart for chart in charts(shot)}
    axes = {name: chart.figure.axes[0] for name, chart in found.items()}
    assert {name: (one.get_xlabel(), one.get_ylabel()) for name, one in axes.items()} == {
        "curves": ("epoch", "value, lower is better"),
        "importance": ("share of the variance without noise, with its 90% interval", ""),
        "effects": ("effect in normal scores, with its 90% interval (right of 0: better)", ""),
        "rates": ("epoch", ""),
        "blend": ("epoch", "share of the blend"),
        "cost": ("seconds of training", "validation accuracy, higher is better"),
    }
    assert found["rates"].figure.axes[1].get_ylabel() == "applied drop rate"
    totals = "; ".join(f"{one.name} {one.importance.total.value:.2f}" for one in shot.effects.factors)
    methods = shot.learned.efficacy.methods[0]
    means = "; ".join(f"{one.name} {one.mean:+.2f} ({one.low:+.2f} to {one.high:+.2f})" for one in methods)
    assert {name: chart.alt for name, chart in found.items()} == {
        # The last trial is the best one, with the losses 0.1 + 2 / epoch^2.
        "curves": "Line chart: value by epoch of 16 trials. The best one, trial 29, goes from 2.1 to 0.1556.",
        "importance": f"Intervals of the importance: {totals}.",
        "effects": f"Intervals: {means}.",
        "rates": "Heatmap: the drop rate of 2 layers by epoch, from 0.050 to 0.600.",
        "blend": "Area chart: the share of each method. Last: adaptive 0.25, pfid 0.75.",
        "cost": "Scatter plot: validation accuracy and training time of 29 trials.",
    }
    cells = axes["rates"].collections[0].get_coordinates()
    assert cells[0, :, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]


def test_the_numbers_of_the_tables_are_those_of_the_trials(study):
    """A few at the top, and a row for each of the ten best trials."""
    page = html.unescape(build(study, "").html)
    seconds = [trial.user_attrs[SECONDS] for trial in study.trials if SECONDS in trial.user_attrs]
    plain = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    top = (
        f"0.1556 value, best trial 0.9777 validation accuracy, best trial 30 trials {sum(seconds):.3g} s of training in"
    )
    assert top in plain
    complete = sorted((trial for trial in study.trials if trial.values), key=lambda trial: trial.value)
    rows = re.findall(r"<tr>(.*?)</tr>", page[page.index('class="trials"') :], re.DOTALL)[1:]
    assert [re.findall(r">([^<]*)</td>", row)[:5] for row in rows] == [
        [
            str(trial.number),
            f"{trial.value:.4f}",
            f"{trial.user_attrs[ACCURACY]:.4f}",
            "-",
            f"{trial.user_attrs[SECONDS]:.3g}",
        ]
        for trial in complete[:10]
    ]


def test_text_of_users_is_escaped():
    """Names of studies, layers and choices, and messages of errors, are text and no markup."""
    study = shown_study(12, name=EVIL, command=f"dropopt run {EVIL!r}", space=EVIL)
    text = build(study, "").html
    assert "<script" not in text
    assert "<b>broke" not in text
    assert "&lt;script&gt;alert(" in text


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_reports_of_any_size_are_small(count):
    """An empty study has a report as well; one of 1,000 trials is far below 5 MB."""
    assert len(build(shown_study(count), "").html) < 1_000_000


def test_studies_of_other_programs_have_a_report():
    """A maximised study, and one with several objectives."""
    highest = optuna.create_study(direction="maximize")
    highest.add_trial(create_trial(value=0.9))
    text = build(highest, "").html
    assert "Trial 0: value 0.9000" in text
    assert "<b>1</b><span>trial</span>" in text
    several = optuna.create_study(directions=["minimize", "maximize"])
    several.add_trial(create_trial(values=[1.0, 2.0]))
    assert "no single best trial" in build(several, "").html
    for name in ("plan", "command", "made_with"):  # names that another program may use as well
        several.set_user_attr(name, "theirs")
    assert "no single best trial" in build(several, "").html


def test_results_that_were_added_by_hand_have_a_report():
    """They took no time. A rate may be a choice among numbers and words; the report tells the range of the numbers."""
    study = optuna.create_study()
    choices = optuna.distributions.CategoricalDistribution([None, "low", 0.1, 0.25])
    for value, rate in enumerate([0.1, None, 0.25, "low"]):
        study.add_trial(create_trial(value=value, params={"p": rate}, distributions={"p": choices}))
    assert "p is 0.1 in the best trial; 0.1 to 0.25 in the best ones." in build(study, "").html


def test_files_are_written_and_not_replaced_unasked(tmp_path, small):
    """A report of the same study is replaced, no other file; pictures are large enough for print."""
    path = tmp_path / "report.html"
    write(path, small)
    check_same_report(path, EVIL)
    with pytest.raises(ConfigError, match="reports another study; give another file"):
        check_same_report(path, "other")
    (tmp_path / "mine.html").write_bytes(b"\xff mine, in no encoding that is known")
    with pytest.raises(ConfigError, match="was not written by dropopt report"):
        check_same_report(tmp_path / "mine.html", EVIL)
    check_name(path)
    with pytest.raises(ConfigError, match=r"^a report is an HTML file, got r\.pdf; give r\.html$"):
        check_name(Path("r.pdf"))
    pictures = write_pictures(tmp_path / "figures", small)
    assert {one.name for one in pictures} >= {"curves.png", "rates.png", "cost.png"}
    with Image.open(pictures[0]) as image:
        assert image.width >= 1200


def test_a_picture_is_whole_or_the_earlier_one(tmp_path, monkeypatch, small):
    """Also if the process dies while the chart is drawn."""

    def die(self, target, **options):
        with open(target, "wb") if isinstance(target, Path) else nullcontext(target) as file:
            file.write(b"half")
        raise Killed

    earlier = {tmp_path / f"{chart.name}.png": b"earlier" for chart in small.charts}
    for path, content in earlier.items():
        path.write_bytes(content)
    monkeypatch.setattr(type(small.charts[0].figure), "savefig", die)
    with pytest.raises(Killed):
        write_pictures(tmp_path, small)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == earlier


class Killed(BaseException):
    """Ends the process."""


@needs_browser
def test_a_browser_shows_the_report_without_a_network(tmp_path):
    """On a dark page and on a narrow one; charts are as wide as the page."""
    write(tmp_path / "r.html", build(shown_study(300), ""))
    dom, picture = open_page((tmp_path / "r.html").as_uri(), tmp_path, "report-dark", width=500, height=3000, dark=True)
    assert "Study photos" in dom
    with Image.open(picture) as image:
        assert image.convert("L").getpixel((2, 2)) < 50


def test_tables_fit_a_phone_and_are_printed_on_several_pages(tmp_path):
    """On a phone, the settings of a trial have a line of their own: a narrow column would make each row a page long."""
    text = build(shown_study(12), "").html
    phone = text[text.index("@media (max-width: 40rem)") : text.index("@media print")]
    assert re.search(r"\.trials td\.long[^}]*grid-column: 1 / -1", phone)
    assert text.count('class="trials"') == 1
    assert "table:not(.trials)" in text[text.index("@media print") :]
