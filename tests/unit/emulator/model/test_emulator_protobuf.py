"""Bytes put together by hand are the bytes that protobuf writes; attempts come back from theirs."""

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from cloudtasks_nb._names import code_of
from cloudtasks_nb.emulator.model.attempts import AttemptResult
from cloudtasks_nb.emulator.model.protobuf import int_field, len_field, read_varint, timestamp, varint
from tests.cases import cases

INSTANTS = st.integers(0, 4_000_000_000_000_000)


@given(st.integers(0, 2**64 - 1))
def test_varints_are_read_as_written(number: int) -> None:
    """A number of any size comes back, and the position after it."""
    wire = b"?" + varint(number)
    assert read_varint(wire, 1) == (number, len(wire))


@given(INSTANTS)
def test_timestamps(instant: int) -> None:
    """A timestamp is what protobuf makes of the same microseconds."""
    message = Timestamp()
    message.FromMicroseconds(instant)
    assert Timestamp.FromString(timestamp(instant)) == message


def test_fields_leave_out_zero() -> None:
    """A zero is not written, as proto3 has it; an empty text inside a message is."""
    assert int_field(7, 0) == b""
    assert len_field(1, b"") == b"\x0a\x00"


@cases(
    (200, 0), (204, 0), (299, 0), (304, 0), (302, 2), (400, 3), (401, 16), (403, 7), (404, 5), (405, 9), (409, 10),
    (416, 11), (429, 8), (499, 1), (500, 13), (501, 12), (502, 13), (503, 14), (504, 4), (599, 13), (0, 2),
)  # fmt: skip
def test_codes_of_http_statuses(status: int, code: int) -> None:
    """An HTTP status is reported as the canonical code that the service gives it."""
    assert code_of(status) == code
    assert AttemptResult(http_status=status).succeeded is (code == 0)
