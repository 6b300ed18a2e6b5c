"""Errors as one line."""

from dropopt.explain import first_line, suggestion


def test_the_first_line_of_an_error():
    """Without words it is the kind of the error, which goes before words that are only a name."""
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == first_line(ValueError("\n")) == "ValueError"
    assert first_line(KeyError("state")) == "KeyError: 'state'"


def test_a_suggestion_is_the_closest_of_what_is_known():
    """Letters may differ in their case; there may be nothing that is known."""
    assert suggestion("Alpah", ["r0", "alpha"]) == "did you mean 'alpha'? known: r0, alpha"
    assert suggestion("digits", []) == "known: none"
