"""Messages between worker and trainer: encoding, and the errors for messages that are not valid."""

import math
from pathlib import Path

import pytest

from dropopt.config import RunConfig
from dropopt.study.run.messages import (
    Done,
    Failed,
    MessageError,
    Prepare,
    Ready,
    Report,
    Stop,
    Stopped,
    Train,
    decode_from_trainer,
    decode_to_trainer,
    encode,
)

RUN = RunConfig.parse({"train": {"augment": ["flip"]}, "engine": {"w_pfid": [0.1, 0.2, 0.3]}})
BASELINE = RunConfig.parse({"engine": {"kind": "dropout"}})


INFINITE = RunConfig.parse({"model": {"options": {"a": [math.inf, None]}}})


@pytest.mark.parametrize(
    "message",
    [
        Prepare(BASELINE),
        Train(3, RUN),
        Train(3, RUN, "/a b.pt"),
        Train(3, RUN, "/a\udcff", "/é\U0001f600"),
        Train(3, INFINITE),
        Stop(3),
    ],
)
def test_messages_to_a_trainer_are_read_back(message):
    """Decoding an encoded message gives an equal message."""
    assert decode_to_trainer(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Ready(10, {"train": "a"}, ["a notice\nof two lines"], {"auto": ["bn1", "fc1"], "block": []}),
        Report(3, 1, 2, 0.5, math.inf, 0.9, -math.inf, 0.4),
        Done(3, 0.1 + 0.2, 2, 0.5, 1.0, 1e-300, {"val_ece": 0.1}),
        Ready(10, {}, [], complexity=0.25),
        Stopped(3),
        Failed(None, "ValueError", "bad", "file.py, line 1", ""),
        Failed(3, "MemoryError", "bad", "file.py, line 1", "", out_of_memory=True),
    ],
)
def test_messages_from_a_trainer_are_read_back(message):
    """The same in the other direction; a message is one line, and infinite numbers survive."""
    line = encode(message)
    assert line.count("\n") == 1
    assert decode_from_trainer(line) == message


def test_options_of_a_network_become_plain_data():
    """As in a file of settings: a path is a text."""
    given, plain = (RunConfig.parse({"model": {"options": {"a": value}}}) for value in (Path("b/c"), "b/c"))
    assert decode_to_trainer(encode(Train(3, given))) == Train(3, plain)


def test_nan_survives():
    """A diverged loss is reported as NaN."""
    assert math.isnan(decode_from_trainer(encode(Done(0, math.nan, 1, 0.5, 0.5, 1.0))).objective)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"kind": "halt"}', "invalid message: Input tag 'halt' found using 'kind'"),
        ('{"kind": "stopped", "trial": 1}', "invalid message: Input tag 'stopped' found using 'kind'"),
        ("{}", "invalid message: Unable to extract tag using discriminator 'kind'"),
        ("[1]", "invalid message: Input should be an object"),
        ("{torn", "invalid message: Invalid JSON"),
        ('{"kind": "stop"}', "invalid stop, field 'trial': Field required"),
        ('{"kind": "stop", "trial": 1, "why": 2}', "invalid stop, field 'why': Unexpected keyword argument; got 2"),
        ('{"kind": "stop", "trial": "1"}', "invalid stop, field 'trial': Input should be a valid integer; got '1'"),
        ('{"kind": "stop", "trial": true}', "invalid stop, field 'trial': Input should be a valid integer; got True"),
        ('{"kind": "train", "trial": 1, "run": {"train": {"epochs": 0}}}', "invalid train, field 'run.train.epochs'"),
    ],
)
def test_invalid_messages_are_errors_that_name_the_field(line, message):
    """An unknown kind, one of the other direction, a missing or additional field, or a wrong type is an error."""
    with pytest.raises(MessageError) as caught:
        decode_to_trainer(line)
    assert str(caught.value).startswith(message)


def test_bytes_that_are_not_text_are_shown():
    """An error may quote the name of a file that is not UTF-8, which no reader of JSON accepts."""
    sent = Failed(None, "ConfigError", "caf\udce9.png: damaged \U0001f600", "file.py, line 1", "")
    assert decode_from_trainer(encode(sent)).message == r"caf\udce9.png: damaged" + " \U0001f600"
