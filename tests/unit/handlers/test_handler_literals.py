"""Secrets in the source that `ct.deploy` uploads: what is refused, and what is none."""

import sys
import tomllib
from pathlib import Path

import pytest

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.literals import SecretSearch
from cloudtasks_nb.handlers.source import module_source
from tests.cases import cases
from tests.processes import run
from tests.raising import raises
from tests.unit.display.test_secrets import HEX, IDS, TOKENS
from tests.unit.handlers.conftest import Notebook

LINES = tomllib.loads(Path(__file__).with_name("lines.toml").read_text(encoding="utf-8"))
SECRETS = {**LINES["secrets"], f'TWILIO_KEY = "SK{HEX * 2}"': "TWILIO_KEY"}


@pytest.mark.parametrize(("line", "name"), SECRETS.items())
def test_secrets_in_definitions(line: str, name: str) -> None:
    """Literals beside the name of a secret are found in every structure, with that name and their line."""
    assert next(SecretSearch().find(f"def report(day):\n    {line}"), None) == (name, 2)


def test_tokens_are_found_under_any_name() -> None:
    """What has the form of a token or a private key is found in texts, bytes, lists, keys and comments."""
    for token in TOKENS:
        texts = (f"x = {token!r}", f"f([{token.encode()!r}])", f"x = {{{token!r}: 1}}", f"x = 1  # {token!r}")
        assert [text for text in texts if not [*SecretSearch().find(text)]] == []


@pytest.mark.parametrize("line", [*LINES["harmless"], *(f"x = {text!r}" for text in IDS)])
def test_what_is_no_secret(line: str) -> None:
    """Examples, templates, places, names of columns, identifiers, hashes and public keys are taken."""
    assert [*SecretSearch().find(f"def report(day):\n    {line}")] == []


GRANT = "roles/secretmanager.secretAccessor --condition=None"


@cases(*map(tuple, LINES["refused"]))
def test_secrets_are_not_written(notebook: Notebook, code: str, words: str) -> None:
    """The error names the secret, who uses it and the line; the hint has the way to keep it, and to say it is none."""
    with raises(HandlerError, words, hint=GRANT) as caught:
        module_source(notebook(code).report)
    hint, name = str(caught.value.hint), str(caught.value.resource)
    variable = name.replace("-", "_").replace(" ", "_").upper()
    assert f'os.environ["{variable}"]' in hint
    assert f'gcloud=["--set-secrets={variable}=my-secret:latest"]' in str(caught.value)
    assert ('public=("NAME",)' if " " in name else f'public=("{name}",)') in hint


def test_names_that_are_public(notebook: Notebook) -> None:
    """Their values are written: of a variable, a key, a parameter, an attribute, and of a parameter of a URL."""
    code = (
        "MODEL_KEY = 'abcd1234efgh5678'\nC = {'X-Token': ['abc']}\n"
        "def report(secret='abc'):\n    x = str\n    x.password = 'abc'\n    return MODEL_KEY, C, 'https://a?sig=ab12cd34'"
    )
    public = ("MODEL_KEY", "X-Token", "secret", "password", "sig")
    source = module_source(notebook(code).report, public=public)
    assert source.secrets.unknown == set()
    for name in public:
        with raises(HandlerError, f"a secret .{name}"):
            module_source(notebook(code).report, public={*public} - {name})


CELL = """
from IPython.core.interactiveshell import InteractiveShell
from cloudtasks_nb.handlers.source import module_source
shell = InteractiveShell.instance()
for cell in ("x = 1", "y = 1\\n\\ndef report():\\n    return f(password='swordfish')"):
    shell.run_cell(cell, store_history=True, silent=False)
module_source(shell.user_ns["report"])
"""


def test_the_line_is_that_of_the_cell() -> None:
    """In a notebook the cell is named by its number."""
    assert 'a secret (password, "cell [2]", line 4): it would' in run(sys.executable, "-c", CELL).stderr
