"""``dropopt confirm``: what it prints last."""

from dropopt.study.command.confirm import confirm
from dropopt.study.session import confirming


def test_the_last_line_of_a_confirmation_that_was_stopped(monkeypatch, capsys):
    """It says how to go on."""
    monkeypatch.setattr(confirming, "confirm", lambda *_: (143, None))
    assert confirm(study="digits", storage="study.log") == 143
    assert capsys.readouterr().out.splitlines()[-1] == "stopped; the same command goes on where it was"
