"""One text for the messages of many failures."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb.fanout.wording import Wording, reads_as
from tests.cases import cases

SHOP = "ValueError: bad shop {}"
SLOW = "TimeoutError: the warehouse did not answer in {} s"
NOT_FOUND = "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://api.example/{}"
WORDS = st.lists(st.sampled_from(["a", "b", "c", "(a)", "b,", "x=1", "x=2", "…"]), max_size=5).map(" ".join)


def worded(*messages: str) -> str:
    """Return the text of several messages."""
    return reduce(Wording.joined, map(Wording.of, messages)).text()


@cases(
    (["KeyError: 'vat_berlin'"], "KeyError: 'vat_berlin'"),
    (["KeyError: 'vat_berlin'", "KeyError: 'vat_wien'"], "KeyError: …"),
    (["KeyError: 'no price of 1'", "KeyError: 'no price of 2'"], "KeyError: no price of …"),
    ([SHOP.format("berlin 22742"), SHOP.format("wien 3")], "ValueError: bad shop …"),
    ([SLOW.format(30), SLOW.format(2.5)], "TimeoutError: the warehouse did not answer in … s"),
    (
        [NOT_FOUND.format("berlin"), NOT_FOUND.format("wien?zip=1010")],
        "HTTPError: 404 Client Error: Not Found for url: …",
    ),
    (["E: shop=oslo, row 1 of 9", "E: shop=wien, row 2 of 9"], "E: shop=…, row … of 9"),
    (["E: no shop", "E: no such shop, sorry"], "E: no …"),
    (["E: a b a", "E: a b a b a"], "E: a b a…"),
    (["no such place", "too late"], "…"),
    (["E: " + "long " * 100] * 2, "E: " + "long " * 39 + "l…"),
)
def test_words_that_differ_are_left_out(messages: list[str], text: str) -> None:
    """The others are told as they are."""
    assert worded(*messages) == text
    assert reads_as(text, text)


@given(messages=st.lists(WORDS, min_size=1, max_size=6), data=st.data())
def test_order_and_repetition_change_nothing(messages: list[str], data: st.DataObject) -> None:
    """So the text does not depend on which row fails first; what is stored can be continued."""
    parts = [Wording.of(message) for message in messages]
    expected = reduce(Wording.joined, parts)
    again = data.draw(st.permutations(parts + data.draw(st.lists(st.sampled_from(parts), max_size=4))))
    cut = data.draw(st.integers(1, len(again)))
    halves = [reduce(Wording.joined, half) for half in (again[:cut], again[cut:]) if half]
    assert Wording.read(reduce(Wording.joined, halves).stored()) == expected


def test_an_earlier_text_is_known() -> None:
    """Of a frame that was read before more rows failed."""
    earlier, later = worded("E: bad 1 in a"), worded("E: bad 1 in a", "E: bad 2 in b")
    assert reads_as(later, earlier)
    assert not reads_as(later, "E: good 1 in a")
    assert not reads_as("E: " + "id=… " * 30, "E: " + "id=" * 60)  # a regular expression would take for ever
