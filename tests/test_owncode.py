"""``module:function``: data sets from the user's own functions, and which functions a setting may name."""

import pytest
from samples import refused

from dropopt.config import DataConfig
from dropopt.training import load_data

OWN = """
import numpy as np
from os import getcwd
rng = np.random.default_rng(0)
def pair():
    return rng.integers(0, 256, (40, 6, 6), dtype=np.uint8), np.arange(40) % 4
def named():
    x, y = pair()
    return {"images": x, "labels": y, "x_test": x[:8], "y_test": y[:8], "classes": ["a", "b", "c", "d"]}
def raises():
    return pair()[0].reshape(7)
def leaves():
    raise SystemExit(3)
def asks(where):
    return pair()
"""


class TestOwnFunction:
    """``module:function``."""

    @pytest.fixture(autouse=True)
    def _module(self, own_module):
        own_module("own_data", OWN)

    def test_arrays_from_a_function_are_a_data_set(self):
        """A data set can be a function in the current folder that returns (images, labels) or named arrays."""
        assert [len(s) for s in load_data(DataConfig(name="own_data:pair")).splits().values()] == [26, 6, 8]
        data = load_data(DataConfig(name="own_data:named"))
        assert data.classes == ("a", "b", "c", "d")
        assert data.duplicates["train/test"] + data.duplicates["validation/test"] == 8

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            (
                "own_data:raises",
                "failed: ValueError: cannot reshape array of size 1440 into shape (7,) (FILE, line 11)",
            ),
            ("own_data:leaves", "failed: SystemExit: 3 (FILE, line 13); it must not end the program, as argparse does"),
            ("own_data:asks", "failed: TypeError: asks() missing 1 required positional argument: 'where'"),
            ("broken:pair", "failed: SyntaxError: '(' was never closed (FILE, line 2)"),
            ("lacking:pair", "failed: ModuleNotFoundError: No module named 'not_there' (FILE, line 1)"),
        ],
    )
    def test_errors_in_own_code_name_file_and_line(self, tmp_path, name, said):
        """An error in the user's own file becomes one line with the file and the line number."""
        (tmp_path / "broken.py").write_text("x = 1\ndef pair(\n")
        (tmp_path / "lacking.py").write_text("import not_there\n")
        file = tmp_path / f"{name.partition(':')[0]}.py"
        assert refused(name) == f"{name} {said}".replace("FILE", str(file))

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("os:getcwd", "'os' is not your own code"),
            ("builtins:eval", "'builtins' is not your own code"),
            ("test.support.os_helper:can_symlink", "'test' is not your own code"),
            ("torch.hub:load", "'torch' is not your own code"),
            ("dropopt.cli:main", "'dropopt.cli' is not your own code"),
            ("own_data:getcwd", "must be defined in 'own_data', not imported there"),
            ("own_data:missing", "has no function 'missing'"),
            ("own_data.inside:x", "there is no module 'own_data.inside'"),
            ("no_such_module:x", "there is no module 'no_such_module'"),
            ("own data:x", "expected module:function"),
            ("own_data:pair()", "expected module:function"),
        ],
    )
    def test_only_own_code_can_be_named(self, name, said):
        """A setting cannot name the standard library, an installed package or what a module merely imported."""
        assert said in refused(name)
