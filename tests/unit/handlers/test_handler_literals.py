"""Secrets in the source that `ct.deploy` uploads: what is refused, and what is none."""

import sys

import pytest

from cloudtasks_nb.errors import HandlerError
from cloudtasks_nb.handlers.literals import SecretSearch
from cloudtasks_nb.handlers.source import module_source
from tests.cases import cases
from tests.processes import run
from tests.raising import raises
from tests.unit.display.test_secrets import HEX, IDS, TOKENS, A
from tests.unit.handlers.conftest import Notebook

#: Lines of a function, with the name under which something in them looks like a secret.
LINES = {
    'password = "hunter2"': "password",
    'db_password: str = "swordfish"': "db_password",
    'api_key = b"5f2c9a7d1b"': "api_key",
    'user, secret = "ann", "swordfish"': "secret",
    'config["db-password"] = "hunter2"': "db-password",
    'session.auth = ("ann", "hunter2")': "password",
    'requests.get(url, auth=("ann", "swordfish"))': "password",
    'requests.get(url, auth=HTTPBasicAuth("ann", "swordfish"))': "password",
    'smtp.login("ann@example.com", "swordfish")': "password",
    'connect(host="db", password="swordfish")': "password",
    'connect(**{"user": "ann", "password": "swordfish"})': "password",
    'headers = {"X-API-Key": "5f2c9a7d1b"}': "X-API-Key",
    'headers = {"Authorization": "Token 5f2c9a7d1b"}': "Authorization",
    'headers = {"Authorization": "Bearer " + "swordfish"}': "Authorization",
    'headers = {"Authorization": f"Token 5f2c{day}9a7d1b0"}': "Authorization",
    'session.headers.update({"Cookie": "session=5f2c"})': "Cookie",
    'request.add_header("Authorization", "Token 5f2c9a7d1b")': "Authorization",
    'pairs = [("day", "mon"), ("password", "swordfish")]': "password",
    'PASSWORDS = {"ann": "hunter2"}': "PASSWORDS",
    'tokens = {"prod": {"token": "5f2c"}}': "token",
    'key = os.environ.get("API_KEY", "5f2c9a7d1b")': "API_KEY",
    'key = os.getenv("PGPASSWORD", default="swordfish")': "PGPASSWORD",
    'token = os.environ.get("T") or "5f2c9a7d1b"': "token",
    'token = "5f2c9a7d1b" if prod else ""': "token",
    'os.environ["OPENAI_API_KEY"] = "swordfish"': "OPENAI_API_KEY",
    'setattr(config, "password", "swordfish")': "password",
    'ok = password == "hunter2"': "password",
    'SecretStr("swordfish")': "SecretStr",
    'token = base64.b64decode("NWYyYzlhN2QxYg==")': "token",
    'api_key = "".join(["5f2c", "9a7d1b"])': "api_key",
    "password = 12345": "password",
    'AWS_SECRET_ACCESS_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"': "AWS_SECRET_ACCESS_KEY",
    'storage_key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq=="': "storage_key",
    'url = "https://api.example/v1?api_key=5f2c9a7d1b"': "url",
    'get(f"https://api.example/{day}?access_token=5f2c9a7d1b")': "access_token",
    'get("https://team.blob.core.windows.net/a?sv=2022&sig=ab%2Fc5")': "sig",
    'engine("mysql+pymysql://ann:swordfish@db/flights")': "password",
    'connect("Server=db;Database=flights;User=sa;Password=swordfish;")': "Password",
    'dsn = "host=db user=ann password=swordfish"': "dsn",
    'subprocess.run(["tool", "--password", "swordfish"])': "password",
    'subprocess.run("tool --token=5f2c9a7d1b")': "token",
    'ini = "[db]\\nuser = ann\\npassword = hunter2\\n"': "password",
    '"""Call it with password=hunter2."""': "password",
    'pass  # curl -H "X-Api-Key: 5f2c9a7d1b"': "X-Api-Key",
    'def api_key(): return "5f2c9a7d1b"': "api_key",
    'get(lambda *, token="5f2c": token)': "token",
    'if (secret := "swordfish"): pass': "secret",
    "[user, password] = ['ann', 'swordfish']": "password",
    'x = {"a": [{"clientSecret": b"swordfish"}]}': "clientSecret",
    'x = \'{"private_key": "-----BEGIN PRIVATE KEY-----\\\\nMIIEvQIB"}\'': "x",
    f'TWILIO_KEY = "SK{HEX * 2}"': "TWILIO_KEY",
    'pass  # password = "hunter2"': "password",
    "pass  # postgres://ann:swordfish@db": "password",
}
#: Lines of a function in which nothing is a secret.
HARMLESS = [
    *('api_key = "YOUR_API_KEY"', 'token = "<token>"', 'password = "changeme"', 'token = "${TOKEN}"', 'password = ""'),
    *('token = os.environ["ACME_PROD_2024"]', 'token = os.environ.get("API_KEY", "")', 'api_key = "sk-..."'),
    *(
        "token_count = 5",
        "max_token = 4096",
        "password = True",
        "password = 12",
        "api_key = None",
        "tokenizer = 'bert'",
    ),
    *('sort_key = "day"', 'primary_key = "id"', 'password_field = "pwd"', 'KEY_COLUMN = "customer_id_sha256"'),
    *(
        'key = "exports/2024/report.parquet"',
        'public_key = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="',
    ),
    *('auth = ("ann", os.environ["PW"])', 'headers = {"Authorization": f"Bearer {token}"}', 'auth = "oauth2"'),
    *('headers = {"Authorization": "Bearer " + token, "X-API-Key": key}', 'h = {"Authorization": "Token %s" % token}'),
    *('get(f"https://x.example?api_key={key}&day={day}")', 'engine(f"postgresql://{user}:{password}@db/flights")'),
    *('engine("postgresql://user:password@host/db")', 'sql = "WHERE password = %s AND token=:token"'),
    *(
        'df.rename(columns={"password": "pwd", "token": "token_id"})',
        'dtype = {"token": "string"}',
        'df[["token", "day"]]',
    ),
    *(
        'ok = token == "the" or token in ("and", "or")',
        'pad_token, eos_token = "<pad>", "[EOS]"',
        'text.replace("token", "x")',
    ),
    *('secret = client.access(name="projects/p/secrets/db2/versions/1")', 'secret = get_secret("acme-prod-2024")'),
    *(
        'SECRET = "projects/p/secrets/db2/versions/latest"',
        'token = "/run/secrets/token"',
        'token_url = "https://x/token2"',
    ),
    *(
        'text = re.sub(r"password=\\S+", "password=***", text)',
        'log.info("token=%s", token)',
        'raise E(f"no api_key={x}")',
    ),
    *(
        '"""Read the password and token=… of the user: Token abc, api_key=secret."""',
        "pass  # token=get_token(), the key: x",
    ),
    *(
        'password = getpass("Password of ann2024: ")',
        'add("--password", help="of the database")',
        'cache_key = f"r-{day}-v2"',
    ),
    *(
        'PASSWORDS = {"user": "ann2024x", "password": os.environ["PW"]}',
        'raise TokenExpired("ask for another token")',
        'TOKEN = "MY_API_TOKEN_2"; SECRET = "client.secret_key"',
        'model_id = "ft:gpt-3.5-turbo:acme:2024:abc123"',
    ),
]


@pytest.mark.parametrize(("line", "name"), LINES.items())
def test_secrets_in_definitions(line: str, name: str) -> None:
    """Literals beside the name of a secret are found in every structure, with that name and their line."""
    assert next(SecretSearch().find(f"def report(day):\n    {line}"), None) == (name, 2)


def test_tokens_are_found_under_any_name() -> None:
    """What has the form of a token or a private key is found in texts, bytes, lists, keys and comments."""
    for token in TOKENS:
        texts = (f"x = {token!r}", f"f([{token.encode()!r}])", f"x = {{{token!r}: 1}}", f"x = 1  # {token!r}")
        assert [text for text in texts if not [*SecretSearch().find(text)]] == []


@pytest.mark.parametrize("line", [*HARMLESS, *(f"x = {text!r}" for text in IDS)])
def test_what_is_no_secret(line: str) -> None:
    """Examples, templates, places, names of columns, identifiers, hashes and public keys are taken."""
    assert [*SecretSearch().find(f"def report(day):\n    {line}")] == []


CLASS = 'class Config:\n    region = "eu"\n    API_KEY = "5f2c9a7d1b"\ndef report(): return Config.API_KEY'
INSIDE = 'def report(day):\n    """Return one."""\n    return get(day, api_key="5f2c9a7d1b")'
GRANT = "roles/secretmanager.secretAccessor --condition=None"


@cases(
    (
        "API_KEY = 'abc'\ndef report(): return API_KEY",
        "report uses API_KEY, which has what looks like a secret .API_KEY.:",
    ),
    (
        "C = {'db': [{'db-password': 'x'}]}\ndef report(): return C",
        "report uses C, which has .* a secret .db-password.:",
    ),
    ("DB = 'mysql://ann:x@db/a'\ndef report(): return DB", "report uses DB, which has what looks like a secret .DB.:"),
    (
        "AUTH = ('ann', 'x')\ndef report(): return AUTH",
        "report uses AUTH, which has what looks like a secret .password.:",
    ),
    (CLASS, r"Config has what looks like a secret .API_KEY, line 3 of Config.: it would be readable in the deployed"),
    (INSIDE, r'report has what looks like a secret .api_key, ".*\.py", line 3.: it would be readable'),
    (f"def report(): return f('ghp_{A * 4}')", r"report has what looks like a secret .access token, .*, line 1.:"),
)
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
