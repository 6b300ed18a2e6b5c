"""Errors as one line."""

from pathlib import Path

from dropopt.explain import first_line, no_data, suggestion


def test_the_first_line_of_an_error():
    """Without words it is the kind of the error, which goes before words that are only a name."""
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == first_line(ValueError("\n")) == "ValueError"
    assert first_line(KeyError("state")) == "KeyError: 'state'"


def test_data_of_another_folder_are_told_where_they_were_looked_for(tmp_path, monkeypatch):
    """A study stores a relative path as it was typed, and its commands may be typed elsewhere."""
    monkeypatch.chdir(tmp_path)
    yours = "name yours, as in --data folder:PATH (for dropopt train: --set data.name=folder:PATH)"
    found = no_data(Path("pictures"), "folder")
    assert found == f"pictures: no such folder in {tmp_path}; go to the folder where it is, or {yours}"
    for fixed in (tmp_path / "a", Path("~/a")):
        assert no_data(fixed, "folder") == f"{fixed}: no such folder; {yours}"


def test_a_suggestion_is_the_closest_of_what_is_known():
    """Letters may differ in their case; there may be nothing that is known."""
    assert suggestion("Alpah", ["r0", "alpha"]) == "did you mean 'alpha'? known: r0, alpha"
    assert suggestion("digits", []) == "known: none"
