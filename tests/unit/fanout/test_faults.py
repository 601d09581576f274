"""What a traceback tells of a failure: the type of the exception, and the line of the user's code."""

import traceback
from typing import Any

import pytest
import requests

from cloudtasks_nb.fanout.causes import Fault, exception_line
from tests.cases import cases

HEADER = "Traceback (most recent call last):\n"
CELL = '  File "cell [1]", line 12, in report\n    x = y[z]\n        ~^^^\n'
ETL = '  File "/home/ada/lib/etl.py", line 7, in load\n'
MODELS = '  File "/opt/venv/lib/python3.12/site-packages/requests/models.py", line 1021, in raise_for_status\n'


@cases(
    (HEADER + CELL + "KeyError: 'a'", ("KeyError", "report, cell [1] line 12")),
    (HEADER + CELL + ETL + "KeyError: 'a'", ("KeyError", "load, etl.py line 7")),
    (HEADER + CELL + MODELS + "requests.exceptions.HTTPError: 404", ("HTTPError", "report, cell [1] line 12")),
    (HEADER + CELL + ETL + MODELS + "requests.exceptions.HTTPError: 404", ("HTTPError", "load, etl.py line 7")),
    (HEADER + MODELS + CELL + "TimeoutError\n", ("TimeoutError", "report, cell [1] line 12")),
    (HEADER + MODELS + MODELS.replace("1021", "9") + "E: 1", ("E", "raise_for_status, models.py line 1021")),
    (
        HEADER + CELL + "KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{HEADER}{ETL}ValueError: no",
        ("ValueError", "load, etl.py line 7"),
    ),
    (HEADER + ETL + "__main__.load.<locals>.Bad: no", ("Bad", "load, etl.py line 7")),
    ("TypeError: f() missing 1 required positional argument: 'day'", None),
    (HEADER + "KeyError: 'a'", None),
)
def test_failures_have_a_line_of_the_users_code(text: str, expected: tuple[str, str] | None) -> None:
    """The last one that is not in a library, of the exception that was raised last; else that of the function."""
    fault = Fault.of(text)
    assert fault == (None if expected is None else (*expected, ""))
    assert Fault.parse(None if fault is None else str(fault)) == fault


LIBRARIES = (
    "/usr/lib/python3.11/json/decoder.py",
    "/usr/lib/python3/dist-packages/pandas/core/frame.py",
    "/layers/google.python.pip/pip/lib/python3.14/site-packages/requests/api.py",
    "/Library/Frameworks/Python.framework/Versions/3.13/lib/python3.13/asyncio/tasks.py",
    r"C:\Users\ada\AppData\Local\Programs\Python\Python312\Lib\json\decoder.py",
    r"C:\work\.venv\Lib\site-packages\requests\models.py",
    *("<frozen importlib._bootstrap>", "<string>", "<__array_function__ internals>"),
)


@cases(
    *((file, "report, cell [1] line 12") for file in LIBRARIES),
    *((file, "f, main.py line 3") for file in ("/workspace/main.py", r"C:\work\main.py")),
    *((file, f"f, {file} line 3") for file in ("<stdin>", "<python-input-3>")),
)
def test_libraries_are_known_by_their_places(file: str, place: str) -> None:
    """Of Linux, macOS, Windows and Cloud Run; also code that has no file. Others are the user's, without a folder."""
    fault: Any = Fault.of(f'{HEADER}{CELL}  File "{file}", line 3, in f\n    g()\nKeyError: 1')
    assert fault.place == place


def fetch(status: int) -> None:
    """Fail as a service answers."""
    response = requests.Response()
    response.status_code, response.url = status, "https://api.example/places/17"
    response.raise_for_status()


def test_the_status_of_a_service_is_part_of_it() -> None:
    """What a service does not know and what it refuses are two causes, though one line has called it."""
    found = []
    for status in (404, 429):
        with pytest.raises(requests.HTTPError) as raised:
            fetch(status)
        found.append(Fault.of("".join(traceback.format_exception(raised.value)), status))
    line = fetch.__code__.co_firstlineno + 4
    assert found == [("HTTPError", f"fetch, test_faults.py line {line}", status) for status in ("404", "429")]


def several() -> None:
    """Raise the errors of several tasks, of which one was raised before."""
    try:
        raise KeyError("x")  # noqa: TRY301 - it has a traceback of its own then
    except KeyError as error:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ValueError(1), error]) from None


def test_a_group_has_its_own_line() -> None:
    """It is not that of its last member, whose traceback comes last."""
    with pytest.raises(ExceptionGroup) as raised:
        several()
    text = "".join(traceback.format_exception(raised.value))
    assert exception_line(text) == "ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions)"
    fault: Any = Fault.of(text)
    assert fault.place == f"several, test_faults.py line {several.__code__.co_firstlineno + 5}"
