"""Errors as one line."""

from dropopt.explain import first_line


def test_the_first_line_of_an_error():
    """Without words it is the kind of the error, which goes before words that are only a name."""
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == first_line(ValueError("\n")) == "ValueError"
    assert first_line(KeyError("state")) == "KeyError: 'state'"
