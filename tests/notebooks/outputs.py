"""What the cells of a notebook show: as text that is the same in each run, and as the counts of batches."""

import html
import re
from collections import Counter
from typing import Any

#: A cell with this tag shows what differs from run to run, such as counts of a batch that runs.
VARIES = "varies"

#: The first cell of notebooks about cards: rows that fail until they are mended, and rows that wait for `go`.
BEGIN = """
import os, signal, threading
os.environ["CLOUDTASKS_NB_HOME"] = {home!r}
import pandas as pd
import cloudtasks_nb as ct

bad, go = {{3, 100}}, threading.Event()

def work(n):
    if n >= 1000 and not go.wait(60):
        raise TimeoutError
    if n in bad:
        raise ValueError(n)
    return n

tasks = ct.local({folder!r})
queue = tasks.queue("q", create=True, rate=500, max_attempts=1)
handler = ct.serve(work, name="work")

def send(numbers, **options):
    return queue.fan_out(pd.DataFrame({{"n": numbers}}), url=handler, **options)
"""

_TAG = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.DOTALL)
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?"
#: What differs from run to run, and what stands for it.
_CHANGING = (
    (r"\b\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?( ?UTC|[+-]\d\d:\d\d|Z)?", "TIME"),
    (r"\b\d\d:\d\d:\d\d(\.\d+)?( UTC, \d{4}-\d\d-\d\d)?", "TIME"),
    (r"\b\d+ days? TIME", "DURATION"),
    (r"\b(127\.0\.0\.1|localhost|\[::1\]):\d+", "HOST"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,64}\b", "ID"),
    (rf"{_NUMBER} ?(µs|ms|s|min|h|seconds?|minutes?|hours?)\b( \d+ ?(ms|s|min)\b)?", "DURATION"),
    (rf"{_NUMBER}(/s| done a second| a second)", "RATE"),
    (rf"{_NUMBER} attempts/s", "RATE"),
    (r"\bport=\d+", "PORT"),
    (r"\b\d+\.\d{4,}\b", "FLOAT"),
    (r"\bat 0x[0-9a-f]+", "at ADDRESS"),
)


def shown(cell: dict[str, Any]) -> str:
    """Return what a cell shows as lines of words, without what differs from run to run.

    Text and streams, and the words and figures of cards and charts; frames by their text, pictures as one word.
    """
    texts, streams = list[str](), dict[str, str]()
    for output in cell.get("outputs", ()):
        if output["output_type"] == "stream":
            streams[output["name"]] = streams.get(output["name"], "") + "".join(output["text"])
            continue
        data = output.get("data", {})
        page = "".join(data.get("text/html", ""))
        texts += [text for text in ("".join(data.get("text/plain", "")), *_words(page)) if text]
        texts += [f"a picture ({kind})" for kind in data if kind.startswith("image/")]
    return "\n".join(steady(text) for text in [*streams.values(), *texts])


def _words(page: str) -> list[str]:
    return [] if 'class="dataframe"' in page else [html.unescape(_TAG.sub(" ", page))]


def steady(text: str) -> str:
    """Return a text without what differs from run to run, and with single spaces.

    Examples
    --------
    >>> steady("batch 0f7a2970   took 1.5 s")
    'batch ID took DURATION'
    """
    text = _COLOUR.sub("", text)
    for pattern, word in _CHANGING:
        text = re.sub(pattern, word, text)
    return "\n".join(line for line in (re.sub(r"[ \t]+", " ", one).strip() for one in text.splitlines()) if line)


def cards(cell: dict[str, Any]) -> list[str]:
    """Return the cards of batches in a cell, as text."""
    found = []
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if 'class="ctn-card" role="group" aria-label="' in "".join(data.get("text/html", "")):
            text = "".join(data["text/plain"])
            found += [text] if re.match(r"Batch |[\d,]+ of the [\d,]+ rows of batch ", text) else []
    return found


def counts(text: str) -> Counter[str] | None:
    """Return the counts of a text such as "3 rows: 2 succeeded, 1 failed"; None if there are none."""
    line = re.search(r"^([\d,]+) rows?: (.*)$", text, re.MULTILINE)
    if line is None:
        return None
    found = re.findall(r"([\d,]+) (succeeded|failed|cancelled|gone|rejected|unsent|ready|running|retrying)", line[2])
    return Counter({state: int(count.replace(",", "")) for count, state in found})


def result_counts(cell: dict[str, Any]) -> Counter[str] | None:
    """Return the counts by state of a cell's result: a `Progress`, or a frame that shows the state of each row."""
    results = [output["data"] for output in cell.get("outputs", ()) if output["output_type"] == "execute_result"]
    for data in results:
        text, page = "".join(data.get("text/plain", "")), "".join(data.get("text/html", ""))
        if re.fullmatch(r"[\d,]+ rows?: .*", text):
            return counts(text)
        states = re.findall(r"<td>(succeeded|failed|cancelled|gone|rejected)</td>", page)
        if 'class="dataframe"' in page and states and "<td>...</td>" not in page:
            return Counter(states)
    return None
