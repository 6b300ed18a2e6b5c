"""The command line: each command on the real digits, the speed of help, and error messages."""

import errno
import io
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest.mock import MagicMock

import optuna
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import dropopt
from dropopt import cli, training
from dropopt.config import ConfigError, RunConfig
from dropopt.study import Study
from dropopt.study.define import shipped
from dropopt.training.evaluate import calibration_of, evaluate

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-c", "from dropopt.cli import main; main()"]


def call(*arguments, cwd, code=0, program=PROGRAM, env=()):
    """Run ``dropopt ARGUMENTS`` as a process. Returns standard output, or standard error if ``code`` is not 0."""
    done = subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "OPTUNA_STORAGE"} | dict(env),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder with a tiny digits study of two trials with four epochs."""
    folder = tmp_path_factory.mktemp("studied")
    out = call("run", "digits", "--n-trials", "2", "--epochs", "4", "--subset", "900", "--n-jobs", "1", cwd=folder)
    return folder, out


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs ``dropopt ARGUMENTS`` in this process and returns what it printed, as ``out`` and ``err``.

    With an error of the user's, whose code is 2, it prints one line.
    """
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["dropopt", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        assert (caught.value.code or 0) == code, printed
        assert code != 2 or re.fullmatch("dropopt: .*\n", printed.err), printed
        return printed

    return run


@pytest.fixture
def in_studied(studied, monkeypatch):
    """The folder of the study is the current one."""
    monkeypatch.chdir(studied[0])


def trials_of(folder, study="digits"):
    """The trials of a study, as Optuna reads them."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/runs/dropopt.db")
    trials = optuna.load_study(study_name=study, storage=storage).trials
    storage.engine.dispose()
    return trials


def stored(name):
    """A study of another program in a.db, with one trial whose configuration is the default."""
    study = optuna.create_study(study_name=name, storage="sqlite:///a.db")
    config = RunConfig().model_dump(mode="json")
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"config": config, "val_accuracy": math.nan}))


def test_help_answers_at_once(tmp_path):
    """``dropopt --help`` takes less than 0.4 s of processor time and names every command."""
    took = []
    for _ in range(2):
        before = os.times()
        out = call("--help", cwd=tmp_path)
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 0.4
    for command in ("run", "status", "export", "train", "dashboard"):
        assert re.search(rf"\b{command}\b", out)


def test_run_leaves_a_study_that_optuna_opens(studied):
    folder, out = studied
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert 0.5 < max(trial.user_attrs["val_accuracy"] for trial in trials) <= 1
    assert "study digits: 2 complete" in out
    for line in (
        "dropopt dashboard",
        "dropopt run digits --epochs 4 --subset 900 --n-jobs 1 --n-trials 4",
        "dropopt export --study digits -o best-digits.yaml",
        "dropopt train best-digits.yaml",
    ):
        assert line in out
    assert "\x1b" not in out


def test_a_script_and_its_name_are_the_same_study(studied, command, monkeypatch, capsys):
    """``python studies/digits.py`` resumes the study ``digits``; ``dropopt run`` makes one request of both."""
    folder, _ = studied
    script = ROOT / "studies" / "digits.py"
    options = ("--n-trials", "2", "--epochs", "4", "--subset", "900", "--n-jobs", "1")
    assert "it already has 2 trials" in call(str(script), *options, cwd=folder, program=[sys.executable])
    requests = []
    monkeypatch.setattr("dropopt.study.session.session.run", lambda request: requests.append(request) or 0)
    for name in ("digits", str(script)):
        command("run", name, *options)
    by_name, by_path = requests
    assert by_name.definition == by_path.definition
    assert by_name.script == by_path.script == script
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--pruner" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_an_export_of_another_script_is_for_its_loop(command):
    """dropopt knows neither its data nor its network, and its values need not be smoothed."""
    stored("mine")
    assert command("export", "--storage", "a.db", "-o", "best.yaml").out.splitlines() == [
        "best.yaml: study mine, trial 0, value 0.5000",
        "use it in your training loop: dropopt.attach(model, dropopt.load('best.yaml').engine, ...)",
    ]


@pytest.mark.parametrize("kind", ["yaml", "json", "toml"])
def test_export_gives_back_the_best_trial(in_studied, kind, command):
    out = command("export", "--study", "digits", "--format", kind, "-o", f"best.{kind}").out
    assert f"train with it: dropopt train best.{kind}" in out
    loaded = dropopt.load(f"best.{kind}")
    best = min(trials_of("."), key=lambda trial: trial.value)
    assert loaded.run.model_dump(mode="json") == best.user_attrs["config"]
    origin = loaded.provenance
    assert (origin["study"], origin["trial"], origin["value"]) == ("digits", best.number, best.value)
    assert origin["seed"] == best.user_attrs["seed"] == loaded.train.seed
    assert origin["made_with"]["versions"]["dropopt"] == dropopt.__version__


@pytest.mark.usefixtures("here")
def test_any_name_is_printed_in_any_encoding(command, monkeypatch):
    """Standard output may lack its characters. An exported file is in UTF-8 nevertheless."""
    stored("größe")
    for words in (["status"], ["export", "--list"], ["report"], ["export", "-o", "-"]):
        printed = io.BytesIO()
        with monkeypatch.context() as patch, io.TextIOWrapper(printed, encoding="ascii") as out:
            patch.setattr(sys, "stdout", out)
            command(*words, "--storage", "a.db")
            out.flush()
            written = printed.getvalue()
        assert (b"gr\\xf6\\xdfe" in written) == ("-" not in words), words
    Path("piped.yaml").write_bytes(written)
    assert dropopt.load("piped.yaml").provenance["study"] == "größe"


@pytest.mark.usefixtures("here")
def test_json_has_no_numbers_that_are_not_finite(command):
    """A metric of one's own may be NaN, and a value of another program infinite; JSON has null for both."""
    stored("one")
    several = optuna.create_study(storage="sqlite:///a.db", study_name="two", directions=["minimize", "minimize"])
    several.add_trial(optuna.trial.create_trial(values=[1.0, math.inf]))

    def read(*words):
        return json.loads(command(*words, "--json", "--storage", "a.db").out, parse_constant=pytest.fail)

    assert read("status")[0]["best"] == {"trial": 0, "value": 0.5, "val_accuracy": None}
    assert read("export", "--list", "--study", "two")[0]["values"] == [1.0, None]


def test_an_export_goes_to_standard_output_alone(in_studied, command):
    before = os.listdir()
    out = command("export", "-o", "-").out
    assert os.listdir() == before
    Path("piped.yaml").write_text(out)
    found = dropopt.load("piped.yaml")
    assert 0 < found.complexity < 1
    line = "dropopt run digits --epochs 4 --subset 900 --n-trials 2 --n-jobs 1"
    assert found.provenance["study_command"] == found.provenance["made_with"]["command"] == line
    assert found.provenance["train_command"] == f"dropopt train --study digits --trial {found.provenance['trial']}"
    assert json.loads(command("export", "-o", "-", "--format", "json").out)["schema"] == 1
    assert tomllib.loads(command("export", "-o", "-", "--format", "toml").out)["schema"] == 1
    listed = json.loads(command("export", "--list", "--json").out)
    assert sorted(row["trial"] for row in listed) == [0, 1]
    assert listed[0]["values"] <= listed[1]["values"]
    assert "r0=" in command("export", "--list").out
    assert command("export", "--quiet").out == ""


def test_a_python_export_trains(in_studied, command, capsys):
    out = command("export", "-o", "loop.py").out
    assert "train with it: python loop.py" in out
    capsys.readouterr()
    runpy.run_path("loop.py", run_name="__main__")
    last = re.search(r"epoch 4 of 4: loss (\d\.\d+), accuracy (\d\.\d+)\n$", capsys.readouterr().out)
    command("export", "-o", "same.yaml")
    assert abs(float(last[2]) - dropopt.load("same.yaml").provenance["val_accuracy"]) < 0.15
    command("export", "-o", "loop.py")


def test_from_a_trial_to_predictions(in_studied, command, monkeypatch):
    threads = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    printed = command("train", "--trial", "1", "--threads", "2", "-o", "my model.safetensors", "--json")
    trained = json.loads(printed.out)
    assert threads == [2]
    assert printed.err.endswith("dropopt predict 'my model.safetensors' IMAGES\n")
    exported = json.loads(command("export", "--trial", "1", "--json", "-o", "one.yaml").out)
    assert (exported["study"], exported["trial"]) == ("digits", 1)
    assert exported["val_accuracy"] == trained["validation"]["accuracy"]
    digits = load_digits()
    Path("pictures").mkdir()
    for number in range(12):
        picture = Image.fromarray((digits.images[number] * 255 / 16).round().astype("uint8"))
        picture.save(f"pictures/{number:02}.png")
    found = json.loads(command("predict", "my model.safetensors", "pictures", "--json").out)
    expected = dropopt.load_model("my model.safetensors", device="cpu").predict(digits.images[:12])
    assert [one["label"] for one in found] == [one.label for one in expected]
    assert [one["probability"] for one in found] == pytest.approx([one.probability for one in expected])
    sampled = ("predict", "my model.safetensors", "pictures", "--samples", "2")
    rows = command(*sampled, "--csv").out.splitlines()
    assert rows[0].startswith("image,label,probability,entropy,mutual_information,p.0,p.1,")
    assert rows[1].startswith("pictures/00.png,")
    assert "mutual" in command(*sampled).out
    assert "95% interval" in command("predict", "my model.safetensors", "--card").out
    Path("pictures/notes.png").write_text("text")
    printed = command("predict", "my model.safetensors", "pictures", "--json", code=1)
    assert json.loads(printed.out) == found
    assert re.fullmatch(r"skipped: pictures/notes\.png cannot be read .*", printed.err.splitlines()[-1])


def test_version_and_short_help(command, monkeypatch):
    """``--version``, also of a folder of the package alone, without pip's metadata, and ``-h`` of every command."""
    for words in ((), ("run",), ("predict",), ("export",)):
        assert "Usage" in command(*words, "-h").out
    assert command("--version").out == f"dropopt {dropopt.__version__}\n"
    monkeypatch.setattr("importlib.metadata.version", MagicMock(side_effect=PackageNotFoundError))
    assert command("--version").out == "dropopt unknown\n"


def test_train_reports_validation_and_test(in_studied, command):
    command("export", "-o", "best.yaml")
    out = command("train", "best.yaml", "-o", "model.pt").out
    accuracy = f"{dropopt.load('best.yaml').provenance['val_accuracy']:.4f}"
    assert re.search(rf"validation: accuracy {accuracy} \+- 0\.\d{{4}} \(standard error; n = \d+\)", out)
    assert re.search(r"test: +accuracy 0\.\d{4} \+- 0\.\d{4} \(standard error; n = 35\d\)", out)
    assert Path("model.pt").stat().st_size > 1000
    assert "note:" not in out
    text = Path("best.yaml").read_text()
    Path("other.yaml").write_text(text.replace("split_seed: 0", "split_seed: 1"))
    out = command("train", "other.yaml", "--epochs", "1").out
    assert "note: the data differ from those of the study" in out


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--checkpoints", "kept"], "the same command goes on where it was"),
        ([], "nothing was kept; with --checkpoints DIR"),
    ],
)
def test_a_training_that_is_stopped_says_how_to_go_on(in_studied, command, monkeypatch, options, kept):
    """Only with ``--checkpoints`` does the same line go on."""
    Path("best.yaml").write_text("provenance: {study: other}")
    command("export", "-o", "best.yaml", "--force")
    monkeypatch.setattr(training, "fit", MagicMock(side_effect=KeyboardInterrupt))
    printed = command("train", "best.yaml", *options, code=130)
    assert f"stopped; {kept}" in printed.out.replace("\n", " ")


def test_the_dashboard_shows_the_study_on_this_machine_only(studied):
    folder, _ = studied
    process = subprocess.Popen([*PROGRAM, "dashboard", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        with urllib.request.urlopen(url + "api/studies", timeout=60) as answer:
            assert [study["study_name"] for study in json.load(answer)["study_summaries"]] == ["digits"]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_confirm_trains_again_and_reads_the_test_set(studied, tmp_path, command, monkeypatch):
    shutil.copytree(studied[0] / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    options = ("--top", "1", "--seeds", "2", "--json", "--optimise", "accuracy", "--n-jobs", "1")
    found = json.loads(command("confirm", *options).out)
    assert [found[key] for key in ("study", "optimise", "seeds")] == ["digits", "accuracy", 2]
    assert found["test"]["loss"]["n"] == 2
    assert not list(tmp_path.rglob("*.pt"))
    first = trials_of(tmp_path, "digits-confirmed")[0]
    run = RunConfig.parse(first.user_attrs["config"])
    result, model, data = training.train_run(run)
    assert result.smoothed_loss == first.value
    assert found["test"]["loss"]["by_seed"][0] == evaluate(model, data.test, run.train)[0]
    assert found["test"]["ece"]["by_seed"][0] == calibration_of(model, data.test, run.train)
    assert first.user_attrs["val_ece"] == calibration_of(model, data.validation, run.train)


def test_bad_input_is_reported_in_one_line(in_studied, command, monkeypatch):
    # One of the URLs has a password, about which there is a warning before the error.
    monkeypatch.setattr("dropopt.study.store.url._warn_of_password", lambda: None)
    Path("file").write_text("")
    Path("bad.yaml").write_text("engine:\n  r0: 1.3\n")
    Path("odd.yaml").write_text("engine:\n  alfa: 0.3\n")
    Path("other.yaml").write_text("provenance: {study: other}")
    for arguments, message in {
        "run nothing.py": "study nothing.py does not exist; give a .py file or one of: ",
        "run digit": "no study 'digit'; did you mean 'digits'? known: ",
        "run resnet18": "'resnet18' is a network, not a study; to search with it: dropopt run digits --model torch",
        "run digits --storage none.db --model resnet18": "did you mean torchvision:resnet18",
        "run digits --storage none.db --model torchvision:resnet81": "has no such classifier; did you mean resnet18",
        "run digits --storage none.db --data digts": "data.name 'digts' is unknown; did you mean 'digits'?",
        "run digits --storage none.db --data folder:none": "none: no such folder in ",
        "run digits --storage none.db --model no_such_module:net": "there is no module 'no_such_module'",
        "run": "no study is given; give a script or one of: ",
        "run digits --space cmpact": "no search space 'cmpact'; did you mean 'compact'? known: blend, compact",
        "run digits --portfolio small": "no portfolio 'small'; ",
        "run digits --sampler tp": "sampler must be one of auto, efficacy, tpe, gp, cmaes, random, got 'tp'",
        "run digits --pruner x": "pruner must be one of median, forecast, percentile, hyperband, none, got 'x'",
        "run digits --n-trials 0": "n_trials must be an integer >= 1, got 0",
        "run digits --n-trials x": "Invalid value for '--n-trials'",
        "run digits --timeout soon": "'soon'",
        "run digits --epochs 0": "epochs must be an integer >= 1, got 0",
        "run digits -j 0": "n-jobs must be 1 or more, or -1",
        "run digits --nope": "No such option: --nope",
        "run digits --study-name other --model nosuch": "model.name 'nosuch' is unknown; known: small, resnet9",
        "run digits --storage file/x.db": "folder file cannot be created: File exists",
        "run digits --storage nope://u:secret@h/x": "@h/x needs a database driver",
        "run digits --storage sqlite:///.": "storage . is not a file",
        "status --storage sqlite:///.": "storage . is not a file",
        "status --storage none.db": "no storage at none.db; run a study first",
        "export --study digit": "no study 'digit' in this storage; did you mean 'digits'? known: digits",
        "export --study digits --trial 9": "study 'digits' has no trial 9; there are: 0 to 1",
        "export --study digits --format xml": "format must be yaml, json, toml or python, got 'xml'",
        "export --study digits -o other.yaml": "other.yaml exists and is of study 'other'",
        "export --study digits -o none/best.yaml": "none/best.yaml cannot be written",
        "efficacy -o none/prior.json": "none/prior.json cannot be written: its folder does not exist",
        "run digits --set train.epocs=3": "unknown setting 'epocs' of train; did you mean 'epochs'?",
        "run digits --set train.lr=0.1": "train.lr is searched by space 'compact', so it cannot be set",
        "run digits --batch-size 0": "batch_size must be an integer >= 1, got 0",
        "train": "give a configuration file, or a trial: --study NAME --trial N",
        "train --trial 1 -o model.safetensor": "model.safetensor: the suffix must be .safetensors for",
        "train bad.yaml --trial 1": "give either the file bad.yaml or a trial",
        "train --trial 9": "study 'digits' has no trial 9; there are: 0 to 1",
        "predict none.safetensors x.png": "none.safetensors does not exist; give a .safetensors file",
        "predict bad.yaml": "give image files or folders after the model, or --card",
        "train none.yaml": "none.yaml: no such file",
        "train bad.yaml": "r0 must be in [0, 1], got 1.3",
        "train odd.yaml": "odd.yaml:2: engine: unknown setting 'alfa'; did you mean 'alpha'?",
        "dashboard --storage none.db": "no storage at none.db",
        "dashboard --port 99999": "less than or equal to 65535",
        "nope": "No such command 'nope'",
    }.items():
        line = command(*arguments.split(), code=2).err
        assert message in line, arguments
        assert "secret" not in line
    assert not Path("none.db").exists()
    assert Path("other.yaml").read_text() == "provenance: {study: other}"


def test_the_go_on_line_repeats_every_option(command, monkeypatch):
    requests = []
    monkeypatch.setattr("dropopt.study.session.session.run", lambda request: requests.append(request) or 0)
    line = "run digits --study-name a --space paper --epochs 2 --subset 300 --sampler random --pruner none --seed 7"
    line += " --batch-size 64 --set train.momentum=0.5 --device cpu --timeout 9.0 --n-jobs 1 --storage x.db"
    command(*line.split(), "--n-trials", "2", "-q")
    shown = requests[0].resume_command
    assert sorted(shown.split()) == sorted(["dropopt", *line.split()])
    assert requests[0].definition.n_trials == 2, "the summary adds --n-trials"
    assert sorted(requests[0].command.split()) == sorted(["dropopt", *line.split(), "--n-trials", "2"])
    assert requests[0].quiet
    command("run", "digits")
    assert requests[1].resume_command == requests[1].command == "dropopt run digits"


def test_status_and_efficacy_for_people_and_for_programs(in_studied, command):
    """A table with one row for each study; with ``--json`` they print JSON and nothing else."""
    assert re.search(r"digits +│ 2 complete +│ loss \d\.\d{4} +│ 0\.\d{4}", command("status").out)
    (study,) = json.loads(command("status", "--json").out)
    assert (study["study"], study["trials"]["complete"], study["objectives"]) == ("digits", 2, ["minimize"])
    learned = json.loads(command("efficacy", "--json").out)
    assert learned["study"] == "digits"
    assert learned["verdict"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_ends_a_command_in_at_most_one_line():
    """A pipe without a reader is nothing to report. The exit code is that of SIGPIPE, as in other programs."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe, open("/dev/full", "wb") as full:
        ended = [
            subprocess.run([*PROGRAM, "run", "--help"], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
            for out in (pipe, full)
        ]
    no_space = "dropopt: the output cannot be written: No space left on device\n"
    assert [(done.returncode, done.stderr) for done in ended] == [(141, ""), (1, no_space)]


def test_a_file_that_the_system_refuses_is_reported_in_one_line(command, monkeypatch):
    def refuse(path, **_):  # as with a name that is too long, before Python 3.14
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))

    monkeypatch.setattr(Path, "exists", refuse)
    assert command("status", "--storage", "long", code=1).err == "dropopt: long: File name too long\n"


@pytest.mark.usefixtures("here")
def test_a_study_with_any_name_has_a_figure(command, monkeypatch):
    """The default name of the file has no part of a path, so that a comparison ends in the folder where it began."""
    monkeypatch.setattr("dropopt.study.session.comparing.compare", lambda request, console: (0, object()))
    monkeypatch.setattr("dropopt.study.show.comparison.show_comparison", lambda console, found: None)
    monkeypatch.setattr("dropopt.study.show.comparison.write_figure", lambda found, path: path.write_text("figure"))
    command("compare", "compact", "dropout", "--study-name", "mine/../../first")
    assert [path.read_text() for path in Path().iterdir()] == ["figure"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a", "trian": {}}, "unknown setting 'trian'"),
        ({"name": "a", "train": {"lr": -1}}, "train.lr must be a number > 0"),
        ({"name": "a", "epochs": 3}, "'epochs'; it is a setting of train"),
        ({"nam": "x"}, "unknown setting 'nam'; did you mean 'name'?"),
        ({}, "name is required"),
    ],
)
def test_a_mistake_in_a_study_is_named(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Study(**settings)


def test_shipped_files_are_found_from_an_installed_package(tmp_path):
    """Studies, spaces and portfolios are found by name in a package that is laid out like the wheel."""
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {"dropopt.studies", "dropopt.search_spaces"} <= set(setup["packages"])
    for package in setup["packages"]:
        where = setup["package-dir"].get(package, package.replace(".", "/"))
        target = tmp_path / package.replace(".", "/")
        target.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.py", *setup["package-data"].get(package, ())):
            for file in (ROOT / where).glob(pattern):
                copy = target / file.relative_to(ROOT / where)
                copy.parent.mkdir(exist_ok=True)
                shutil.copy(file, copy)
    code = (
        "from dropopt.study.define import shipped; from dropopt.study.define.script import load;"
        "study, path = load('digits'); space = study.load_space(path.parent); print(path); print(space.path);"
        "print(shipped.find('portfolios', study.portfolio))"
    )
    env = {"PYTHONPATH": str(tmp_path)}
    out = call("-P", "-c", code, cwd=tmp_path, program=[sys.executable], env=env).split()
    found = ("studies/digits.py", "search_spaces/compact.yaml", "search_spaces/portfolios/small_images.yaml")
    assert out == [str(tmp_path / "dropopt" / name) for name in found]


def test_shipped_names_are_the_files_of_the_repository():
    for kind, suffix in (("studies", ".py"), ("search_spaces", ".yaml")):
        assert shipped.names(kind) == sorted(path.stem for path in (ROOT / kind).glob(f"*{suffix}"))


@pytest.mark.parametrize("program", [["-m", "dropopt"], ["-c", "from dropopt.__main__ import main; main()"]])
def test_a_current_folder_that_was_deleted_is_named(program):
    """One line says what to do, without a traceback."""
    line = ["sh", "-c", 'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$@"', "sh", sys.executable, *program, "status"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "dropopt: the current folder was deleted; change to another one, as in: cd ~\n"


def test_python_m_with_the_module_is_the_command(tmp_path):
    assert "Usage" in call("--help", cwd=tmp_path, program=[sys.executable, "-m", "dropopt.cli"])


@pytest.mark.usefixtures("here")
def test_a_name_in_a_line_does_not_control_the_terminal(command):
    stored("a\x1b[2Jb")
    exported = command("export", "--study", "a\x1b[2Jb", "-o", "best.yaml", "--storage", "a.db")
    refused = command("report", "--study", "c\x1b[2J", "--storage", "a.db", code=2)
    assert "study a[2Jb" in exported.out
    assert "c[2J" in refused.err or "c\\x1b[2J" in refused.err
    assert "\x1b[2J" not in "".join((*exported, *refused))
