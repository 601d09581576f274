"""What is told of rows that another home has rendered."""

from cloudtasks_nb.fanout.batch.resend import Foreign
from cloudtasks_nb.fanout.plan.foreign import Call


def foreign(calls: dict[Call, int], makers: dict[str, int]) -> Foreign:
    """Return so many rows."""
    return Foreign(batch="0000abcd", queue="q", refs=range(sum(calls.values())), calls=calls, makers=makers)


def test_the_rarest_call_stands_first() -> None:
    """One row with another target among many is what a look would miss."""
    usual, rare = Call("https://svc", "", ""), Call("https://evil", "boss@p", "https://payroll")
    assert foreign({usual: 9_999, rare: 1}, {"ada@a": 9_999, "\x1b[2Jbob": 1}).lines == [
        "10,000 rows of batch 0000abcd, for queue q, were not rendered in this home",
        "1 row: call https://evil with an OIDC token of boss@p for https://payroll",
        "9,999 rows: call https://svc with no token",
        r"the store says that they are of ada@a, '\x1b[2Jbob', which nothing proves",
    ]


def test_many_calls_are_counted() -> None:
    """What is not named is not left out."""
    calls = {Call(f"https://svc-{number}", "", ""): 2 for number in range(60)}
    lines = foreign(calls, {"": 120}).lines
    assert len(lines) == 53
    assert lines[-2:] == ["20 rows: 10 other calls", "the store says that they are of somebody, which nothing proves"]
