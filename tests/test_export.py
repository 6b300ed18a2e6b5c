"""Configurations as files: they are read back exactly, and errors name the file and the line."""

import ast
import json
import os
import re
import sys
from typing import get_args

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dropopt
from dropopt.config import Baseline, ConfigError, DataConfig, EngineConfig, ModelConfig, RunConfig, TrainConfig
from dropopt.export import Exported, load, save
from dropopt.provenance import provenance

FORMATS = ("yaml", "json", "toml")

#: Settings that a format could change: thirds, tiny numbers, tuples, text that looks like a number or a date.
TRICKY = {
    "train": {"lr": 0.1 + 0.2, "weight_decay": 1e-5, "augment": ["shift", "flip"]},
    "engine": {"r0": 1 / 3, "w_adaptive": [0.1, 0.2, 0.7], "update_every": 10, "drop_updates": "only"},
    "model": {
        "name": "own:net",
        "options": {
            "widths": [8, 16],
            "big": 1e20,
            "texts": ["yes", "no", "on", "1e-3", "010", "1:30", "2024-01-01", "", "null", "~", "<<", "=", ".5", "0x1f"],
            "odd": "a\u2028b\n\t: # '\"",
            "flag": True,
            "inside": {"deeper": {"x": -0.0}},
        },
    },
}


def plain_values():
    """Values of options: scalars, null and infinity included, in lists and mappings."""
    text = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["!null", "!!null", "null", "inf"])
    scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.! ", max_size=3), inner, max_size=3),
        max_leaves=6,
    )


@st.composite
def runs(draw):
    """Configurations with settings of each kind."""
    engine = {"r0": draw(st.floats(0, 1)), "update_every": draw(st.just("epoch") | st.integers(1, 9))}
    engine["duration_phi"] = draw(st.floats(-1e9, 1e9))
    baseline = {"kind": draw(st.sampled_from(["none", "dropout"])), "p": draw(st.floats(0, 0.9))}
    some = st.none() | st.integers(4, 99)
    return RunConfig.parse(
        {
            "data": {"subset": draw(some), "image_size": draw(some)},
            "model": {"options": draw(st.dictionaries(st.text("ab.! ", max_size=3), plain_values(), max_size=3))},
            "train": {
                "patience": draw(some),
                "augment": draw(st.sampled_from([[], ["flip"]])),
                "lr": draw(st.floats(1e-300, 1e300)),
            },
            "engine": draw(st.sampled_from([engine, baseline])),
        }
    )


def refused(path, text=None, **options):
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


class TestRoundTrip:
    """A file that is written and read again gives the same configuration."""

    @settings(max_examples=50)
    @given(run=runs(), facts=st.dictionaries(st.text("ab!", max_size=3), plain_values(), max_size=3))
    @example(run=RunConfig(), facts={"text": "a\x85b", "value": 0.1 + 0.2, "trials": {"complete": 3}})
    @example(run=RunConfig.parse(TRICKY), facts=provenance(trial=1))
    @example(run=RunConfig(), facts={"git": None, "a": [None, {"b": None}], "text": ["!null", "!!null", "null"]})
    def test_a_configuration_comes_back_exactly(self, tmp_path_factory, run, facts):
        """Any configuration is the same from each format: every bit of a number, any text, null, and what looks so."""
        for kind in FORMATS:
            path = tmp_path_factory.getbasetemp() / f"equal.{kind}"
            save(path, run, facts)
            assert load(path) == Exported(run, facts), kind

    @pytest.mark.parametrize("kind", FORMATS)
    def test_format_overrides_the_suffix(self, tmp_path, kind):
        """The argument ``format`` takes precedence over the suffix; ``.py`` is written and not read."""
        save(tmp_path / "best.txt", RunConfig(), {"a": 1}, format=kind)
        assert load(tmp_path / "best.txt", format=kind).provenance == {"a": 1}
        with pytest.raises(ConfigError, match=r"suffix must be one of \.yaml, \.yml, \.json, \.toml"):
            load(tmp_path / "best.txt")
        with pytest.raises(ConfigError, match=r"suffix must be one of \.yaml, \.yml, \.json, \.toml, \.py, or give"):
            save(tmp_path / "best.txt", RunConfig(), {})
        with pytest.raises(ConfigError, match="format must be yaml, json, toml or python, got 'xml'"):
            save(tmp_path / "best.txt", RunConfig(), {}, format="xml")
        for other, named in (("yaml", "best.yaml"), ("python", "best.py")):
            told = re.escape(f"best.JSON: the suffix is not that of {other}; give {tmp_path / named}, or no format")
            with pytest.raises(ConfigError, match=told):  # no command would read it
                save(tmp_path / "best.JSON", RunConfig(), {}, format=other)
        save(tmp_path / "best.yml", RunConfig(), {}, format="yaml")

    def test_toml_has_no_settings_that_are_none(self, tmp_path):
        """It has no null, so that what can be None must be so by default."""
        for kind in FORMATS:
            save(tmp_path / "best", RunConfig(), {}, kind)
            assert ("patience" in (tmp_path / "best").read_text()) == (kind != "toml")
        for section in (TrainConfig, DataConfig, ModelConfig, EngineConfig, Baseline):
            for name, field in section.model_fields.items():
                if type(None) in get_args(field.annotation):
                    assert field.default is None, f"{name} cannot be left out of a TOML file"

    def test_a_loaded_file_has_its_sections_as_attributes(self, tmp_path):
        save(tmp_path / "best.yaml", RunConfig.parse(TRICKY), {})
        best = dropopt.load(tmp_path / "best.yaml")
        assert isinstance(best.engine, EngineConfig)
        assert (best.train, best.data, best.model) == (best.run.train, best.run.data, best.run.model)
        assert best.model.options["texts"][0] == "yes"

    def test_odd_facts_become_text(self, tmp_path):
        """Values of the provenance that a format does not support are written as text."""
        save(tmp_path / "a.toml", RunConfig(), {"path": tmp_path, "pair": (1, 2), 3: {"x": 1 + 2j}})
        assert load(tmp_path / "a.toml").provenance == {"path": str(tmp_path), "pair": [1, 2], "3": {"x": "(1+2j)"}}

    @pytest.mark.parametrize(("kind", "read"), [("yaml", "\udcff.png"), ("json", "\udcff.png"), ("toml", "?.png")])
    def test_a_command_may_name_a_file_that_is_no_text(self, tmp_path, kind, read):
        """File names are bytes, for which Python has lone surrogates; TOML cannot hold them."""
        save(tmp_path / "x", RunConfig(), {"study_command": os.fsdecode(b"\xff.png")}, kind)
        assert load(tmp_path / "x", kind).provenance == {"study_command": read}

    def test_other_readers_agree(self, tmp_path):
        """PyYAML, which follows YAML 1.1, and any JSON parser read the same values."""
        run = RunConfig.parse(TRICKY)
        for kind, read in (("yaml", yaml.safe_load), ("json", json.loads)):
            save(tmp_path / f"a.{kind}", run, {})
            plain = read((tmp_path / f"a.{kind}").read_text())
            assert RunConfig.parse({k: v for k, v in plain.items() if k not in ("provenance", "schema")}) == run

    def test_a_file_is_replaced_whole(self, tmp_path, monkeypatch):
        path = tmp_path / "best.yaml"
        save(path, RunConfig(), {"first": 1})
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
            with pytest.raises(ConfigError, match=r"best.yaml cannot be written: No space left"):
                save(path, RunConfig(), {"second": 2})
        assert load(path).provenance == {"first": 1}
        assert list(tmp_path.iterdir()) == [path]
        with pytest.raises(ConfigError, match="cannot be written: its folder does not exist"):
            save(tmp_path / "none" / "best.yaml", RunConfig(), {})

    def test_a_file_has_the_usual_permissions(self, tmp_path):
        (tmp_path / "plain").touch()
        save(tmp_path / "best.yaml", RunConfig(), {})
        assert (tmp_path / "best.yaml").stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestSchema:
    """Files of other versions."""

    def test_files_have_a_version_and_older_ones_have_none(self, tmp_path):
        """A file without the version, which earlier versions of dropopt wrote, is read."""
        path = tmp_path / "a.yaml"
        save(path, RunConfig.parse(TRICKY), {"study": "a"})
        assert "\nschema: 1\n" in path.read_text()
        path.write_text(path.read_text().replace("schema: 1\n", ""))
        assert load(path) == Exported(RunConfig.parse(TRICKY), {"study": "a"})

    def test_the_complexity_of_the_data_is_at_hand(self, tmp_path):
        """``complexity`` is that of the provenance; None for a file that does not say, or says nonsense."""
        for given_value, expected in ((0.25, 0.25), (0, 0.0), (1.0, 1.0), (None, None), ("high", None), (7, None)):
            save(tmp_path / "a.yaml", RunConfig(), {"complexity": given_value})
            assert load(tmp_path / "a.yaml").complexity == expected


class TestPython:
    """A training loop as a program; tests/test_cli.py runs one."""

    def test_the_settings_are_those_of_the_run(self, tmp_path):
        for chosen in (TRICKY, {"engine": {"kind": "none"}}, {"model": {"options": {"x": [float("inf"), None]}}}):
            run = RunConfig.parse(chosen)
            save(tmp_path / "best.py", run, {"study": "a", "trial": 3})
            tree = ast.parse((tmp_path / "best.py").read_text())
            (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "parse"]
            assert eval(ast.unparse(call), {"dropopt": dropopt, "float": float}) == run

    def test_no_name_becomes_code(self, tmp_path):
        """Line breaks and quotes in names stay inside comments and texts."""
        evil = "a\nraise SystemExit\u2028raise SystemExit\r'\"\\n"
        run = RunConfig.parse({"model": {"name": f"{evil}:f", "options": {evil: evil}}})
        save(tmp_path / "best.py", run, {"study": evil, "trial": evil, "made_with": {"versions": {"dropopt": evil}}})
        tree = ast.parse((tmp_path / "best.py").read_text())
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]

    def test_it_is_run_and_not_loaded(self, tmp_path):
        assert refused(tmp_path / "best.py").endswith(f"run it: python {tmp_path / 'best.py'}")


class TestByHand:
    """Files that a person writes."""

    def test_a_section_alone_is_enough(self, tmp_path):
        path = tmp_path / "a.yaml"
        path.write_text("engine: {r0: 0.4}\n")
        assert load(path) == Exported(RunConfig(engine=EngineConfig(r0=0.4)), {})
        path.write_text("engine: {kind: none}\n")
        assert load(path).engine == Baseline(kind="none")

    def test_numbers_mean_what_they_look_like(self, tmp_path):
        """Scalars follow YAML 1.2, not 1.1: 1e-3 is a number, 010 is ten, ``no`` is text."""
        path = tmp_path / "a.yaml"
        path.write_text(
            "train: {lr: 1e-3, weight_decay: 5E-4, epochs: 010}\n"
            "model: {options: {a: 1e-3, b: no, c: 010, d: 1:30, e: off, f: -.5, g: +7, h: 2024-01-01, i: 1_000}}\n"
        )
        loaded = load(path)
        assert (loaded.train.lr, loaded.train.weight_decay, loaded.train.epochs) == (0.001, 0.0005, 10)
        assert loaded.model.options == {
            "a": 0.001, "b": "no", "c": 10, "d": "1:30", "e": "off", "f": -0.5, "g": 7, "h": "2024-01-01", "i": "1_000"
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("engine:\n  alpha: 0.5\n  r0: 1.3\n", ":3: engine: r0 must be in [0, 1], got 1.3"),
            ("\n\ntrian: {}\n", ":3: unknown section 'trian'; did you mean 'train'?"),
            ("train:\n  lr: 1\n  epocs: 3\n", ":3: train: unknown setting 'epocs'; did you mean 'epochs'?"),
            ("train: 5\n", ":1: train must be a mapping of settings, got 5"),
            ("train: {lr: .nan}\n", ":1: train: lr must be a number > 0, got nan"),
            ("train:\n  augment:\n    - flip\n    - flop\n", ":4: train: augment must be a list, each one of shift"),
            ("engine:\n  kind: dropblock\n  block_size: 2\n", ":1: engine: block_size must be odd"),
            ("engine:\n  kind: nothing\n", ":2: engine: kind must be one of none, dropout"),
            ("train: {lr: 1, lr: 2}\n", ":1: 'lr' is given twice, first in line 1"),
            ("train: {lr: [1\n", ": not valid here: "),
            ("schema: 0\n", ":1: schema must be an integer >= 1, got 0"),
            (
                "data: {}\nschema: 9\nx: 1\n",
                ":2: a newer dropopt wrote this file (schema 9; this version reads schema 1)",
            ),
            ("provenance: 5\n", ":1: provenance must be a mapping of settings, got 5"),
            ("- 1\n", " must hold a mapping with data, model, task, train, engine, provenance; it holds list"),
            ("", ": the file is empty"),
            ("# nothing\n", ": the file is empty"),
            ("a: &x [1]\nb: *x\n", ":1: not valid here: anchors and aliases are not allowed"),
            ("train: {1: 2}\n", ":1: a key must be text, got 1"),
            ("train: {[1]: 2}\n", ":1: a key must be text, got [1]"),
            ("a: 1\n---\nb: 2\n", ":2: not valid here: "),
            ("[" * 5000, ": nested too deeply"),
            ("x" * 1_000_001, ": too large (1000001 bytes; at most 1000000)"),
        ],
    )
    def test_yaml_faults_have_their_line(self, tmp_path, text, said):
        """The message for an error in a YAML file is one line: file, line, the value and the allowed values."""
        assert said in refused(tmp_path / "a.yaml", text)

    @pytest.mark.parametrize(
        ("suffix", "text", "said"),
        [
            ("json", '{"train": ', "not valid JSON: Expecting value: line 1 column 11"),
            ("json", '{"train": {"lr": 1, "lr": 2}}', "not valid JSON: 'lr' is given twice"),
            ("json", '{"train": {"lr": NaN}}', "train: lr must be a number > 0, got nan"),
            ("json", '{"train": {"lr": 1e999}}', "train: lr must be a number > 0, got inf"),
            ("json", "[" * 100_000, "nested too deeply"),
            ("json", "[]", "it holds list"),
            ("toml", "train = {lr = }", "not valid TOML: Invalid value (at line 1"),
            ("toml", "[train]\nlr = 1\nlr = 2\n", "not valid TOML"),
            ("toml", "[engine]\nr0 = 1.3\n", "engine: r0 must be in [0, 1], got 1.3"),
        ],
    )
    def test_json_and_toml_faults_are_reported(self, tmp_path, suffix, text, said):
        assert said in refused(tmp_path / f"a.{suffix}", text)

    def test_an_unreadable_file_is_reported(self, tmp_path):
        """A missing file, a folder, bytes that are not text, and a character that YAML forbids."""
        assert refused(tmp_path / "none.yaml") == ": no such file"
        (tmp_path / "folder.yaml").mkdir()
        assert refused(tmp_path / "folder.yaml") == " cannot be read: Is a directory"
        for kind in FORMATS:
            (tmp_path / f"a.{kind}").write_bytes(b"\xff\xfe\x00")
            assert "not a text file in UTF-8" in refused(tmp_path / f"a.{kind}")
        assert ": not valid YAML: " in refused(tmp_path / "a.yaml", "a: \x07\n")


class TestSafety:
    """Reading a file never runs code."""

    @pytest.mark.parametrize(
        "value",
        [
            "!!python/object/apply:os.mkdir [RAN]",
            "!!python/object/new:os.mkdir {args: [RAN]}",
            "!!python/name:os.mkdir",
            "!!python/module:os",
            "!custom {}",
            "!!set {a, b}",
            "!!binary aGk=",
        ],
    )
    def test_tags_are_refused(self, tmp_path, value):
        ran = tmp_path / "ran"
        message = refused(tmp_path / "a.yaml", f"train: {{lr: 0.1}}\nengine: {value.replace('RAN', str(ran))}\n")
        assert message.startswith(":2: ")
        assert "is not allowed here" in message
        assert not ran.exists()

    def test_names_in_a_file_are_only_names(self, tmp_path):
        (tmp_path / "a.yaml").write_text("model: {name: 'antigravity:fly'}\ndata: {name: 'this:s'}\n")
        load(tmp_path / "a.yaml")
        assert not {"antigravity", "this"} & set(sys.modules)
