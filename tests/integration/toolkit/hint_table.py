"""Hints that are lines of code: the mistake that shows each, the line as it is followed, and what comes of it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """One row of the table. All but `hint` is Python; names of `START` need not be made."""

    hint: str  #: a part of what is shown; § stands for anything
    before: str = ""  #: what is there already
    mistake: str = ""  #: what raises the error, prints the hint or returns what shows it
    follow: str = ""  #: the next lines; what stands in «» is copied from what was shown, § as it was there
    then: str = "True"  #: what is true afterwards; `it` is the value of the last line
    unfollowed: str = ""  #: why nothing is followed


#: What each row begins with.
START = """
import pandas as pd
import cloudtasks_nb as ct
tasks = ct.local()
queue = tasks.queue("reports", create=True, rate=500, max_attempts=1)
def report(day, origin="JFK"):
    if day == "never":
        raise KeyError(day)
    return f"{origin} on {day}"
df = pd.DataFrame({"day": ["2013-01-01", "2013-01-02"], "origin": ["JFK", "LGA"]})
url = "http://127.0.0.1:9/run"
"""
PAUSED = "queue.pause()\n"
SERVED = "handler = ct.serve(report)\n"
WAITING = PAUSED + SERVED + "batch = queue.fan_out(df, url=handler)\n"
SENT = WAITING + "from tests.integration.fanout.conftest import sent\nsent(batch)\n"
DONE = SERVED + "batch = queue.fan_out(df, url=handler)\nbatch.wait('240s')\n"
FAILED = SERVED + "batch = queue.fan_out(df.replace('2013-01-01', 'never'), url=handler)\nbatch.wait('240s')\n"
#: A connection to Google; nothing is called.
GOOGLE = 'tasks = ct.connect("my-project", "us-central1")\nqueue = tasks.queue("reports")\n'

ARGUMENTS = (
    Hint(
        hint='add an offset ("2030-01-02 06:00:00+00:00") or tz="UTC" or tz="Europe/Zurich"',
        before=PAUSED,
        mistake='queue.enqueue(url, at="2030-01-02 06:00", task_id="a")',
        follow="""
from datetime import UTC, datetime, timedelta
at = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d %H:%M}"
queue.enqueue(url, at=at, «tz="UTC"»)
queue.enqueue(url, at=at, «tz="Europe/Zurich"»)
""",
        then="len(queue.tasks()) == 2",
    ),
    Hint(
        hint='pd.to_datetime(column, unit="s", utc=True) makes Timestamps of seconds since 1970',
        before=PAUSED + "import time; column = pd.Series([time.time() + 3600])\n",
        mistake="queue.enqueue(url, at=int(column[0]))",
        follow='queue.fan_out(pd.DataFrame({"at": «pd.to_datetime(column, unit="s", utc=True)»}), url=url, at="{at}")',
        then="len(it.tasks()) == 1",
    ),
    Hint(
        hint="; it is a setting of the queue: queue.update(rate=5)",
        mistake="queue.fan_out(df, url=url, rate=5)",
        follow="«queue.update(rate=5)»",
        then="tasks.queues()['rate'].item() == 5",
    ),
    Hint(
        hint="limit=None reads all",
        before=PAUSED + "queue.fan_out(df, url=url).status()\n",
        mistake="queue.tasks(limit=0)",
        follow="queue.tasks(«limit=None»)",
    ),
    Hint(
        hint='delay="10min", or at="2026-01-02 06:00+09:00"',
        before=PAUSED,
        mistake="queue.schedule(url)",
        follow='queue.schedule(url, «delay="10min"»)\nqueue.schedule(url, «at="2026-01-02 06:00+09:00"»)',
        then="len(queue.tasks()) == 2",
    ),
    Hint(
        hint="send_rate=200, or leave it out; how fast tasks are dispatched is set on the queue: queue.update(rate=5)",
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, send_rate=0)",
        follow="«queue.update(rate=5)»\nqueue.fan_out(df, url=url, «send_rate=200»)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="stop_after_failures=10, or 0.05 for a twentieth of all rows",
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, stop_after_failures=-1)",
        follow="queue.fan_out(df, url=url, «stop_after_failures=10»)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint='pause_at="5%" or 0.05; stop_after_failures=10 cancels the rest after a number of failures',
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, pause_at=10)",
        follow='queue.fan_out(df, url=url, name="a", «pause_at="5%"»)\n'
        'queue.fan_out(df, url=url, name="b", «stop_after_failures=10»)',
        then="len(tasks.batches()) == 2",
    ),
    Hint(
        hint='canary=20 sends 20 rows first, canary="1%" a hundredth of all rows',
        before=PAUSED + 'df = pd.DataFrame({"day": range(200)})\n',
        mistake="queue.fan_out(df, url=url, canary=-1)",
        follow='queue.fan_out(df, url=url, name="a", «canary=20»)\nqueue.fan_out(df, url=url, name="b", «canary="1%"»)',
        then="len(tasks.batches()) == 2",
    ),
    Hint(
        hint='use one line of text, such as name="march", or leave it out',
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, name='a\\nb')",
        follow='queue.fan_out(df, url=url, «name="march"»)',
        then="it.name == 'march'",
    ),
    Hint(
        hint='key=[...] with columns that tell the rows apart, errors="skip" (the first is sent), '
        "or key=ct.ROW (each row is its own)",
        before=PAUSED + "twice = pd.concat([df, df], ignore_index=True)\n",
        mistake="queue.fan_out(twice, url=url)",
        follow='queue.fan_out(twice, url=url, name="a", «errors="skip"»)\n'
        'queue.fan_out(twice, url=url, name="b", «key=ct.ROW»)\n'
        'queue.fan_out(twice.assign(n=range(4)), url=url, name="c", «key=[»"n"«]»)',
        then="sorted(tasks.batches()['total']) == [4, 4, 4]",
    ),
    Hint(
        hint='give a list of columns (key=["day", "shop"]), or key=ct.ROW if each row is its own',
        before=PAUSED + 'df["shop"] = "bern"\n',
        mistake="queue.fan_out(df, url=url, key=7)",
        follow='queue.fan_out(df, url=url, name="a", «key=["day", "shop"]»)\n'
        'queue.fan_out(df, url=url, name="b", «key=ct.ROW»)',
        then="len(tasks.batches()) == 2",
    ),
    Hint(
        hint='leave body= out and put the values into the URL, or use method="POST"',
        before=PAUSED,
        mistake='queue.fan_out(df, url=url, method="GET", body=["day"])',
        follow='queue.fan_out(df, url=url, body=["day"], «method="POST"»)',
        then="it.progress().total == 2",
    ),
    Hint(
        hint='body=["day"] sends {"day": its cell}, body="{day}" the cell alone; if the word is meant, '
        'rename the column',
        before=PAUSED,
        mistake='queue.fan_out(df, url=url, body="day", key="day")',
        follow='queue.fan_out(df, url=url, key="day", name="a", «body=["day"]»)\n'
        'queue.fan_out(df, url=url, key="day", name="b", «body="{day}"»)',
        then="len(tasks.batches()) == 2",
    ),
    Hint(
        hint='body=["day", "origin"]',
        before=SERVED + "df['shop'] = 'bern'\n",
        mistake="queue.fan_out(df, url=handler)",
        follow="queue.fan_out(df, url=handler, «body=§»)",
        then="it.wait('240s').succeeded == 2",
    ),
    Hint(
        hint='body="{day}"',
        before="import datetime\ndef only(day, /):\n    return day\nhandler = ct.serve(only)\n",
        mistake="queue.fan_out(df, url=handler)",
        follow="queue.fan_out(df, url=handler, «body=\"{day}\"»)",
        then="it.wait('240s').succeeded == 2",
    ),
    Hint(
        hint='ct.serve(lambda day, origin: both(day, origin), name="both") has parameters with names',
        before="def both(day, origin, /):\n    return day + origin\nhandler = ct.serve(both)\n",
        mistake="queue.fan_out(df, url=handler)",
        follow="handler.close()\nqueue.fan_out(df, url=«ct.serve(lambda day, origin: both(day, origin), name=\"both\")»)",
        then="it.wait('240s').succeeded == 2",
    ),
    Hint(
        hint="rename them, or keep the first: df.loc[:, ~df.columns.duplicated()]",
        before=PAUSED + "df = pd.concat([df, df], axis=1)\n",
        mistake="queue.fan_out(df, url=url)",
        follow="queue.fan_out(«df.loc[:, ~df.columns.duplicated()]», url=url)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="give a DataFrame (pd.DataFrame(data) of a dictionary of columns), an iterable of DataFrames, an Arrow "
        "table, a Series, a list of dictionaries, or the path of a CSV or Parquet file",
        before=PAUSED + 'data = {"n": [1, 2]}\n',
        mistake="queue.fan_out(data, url=url)",
        follow="queue.fan_out(«pd.DataFrame(data)», url=url)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="list(rows) if they are dictionaries; else make one frame of the rows: pd.DataFrame(rows), or of single "
        'values pd.DataFrame({"n": values})',
        before=PAUSED + 'rows = ({"n": n} for n in range(3)); values = [1, 2]\n',
        mistake="queue.fan_out(iter([1, 2]), url=url)",
        follow="""
queue.fan_out(«list(rows)», url=url, name="a")
rows = [(1, 2), (3, 4)]
queue.fan_out(«pd.DataFrame(rows)», url=url, name="b")
queue.fan_out(«pd.DataFrame({"n": values})», url=url, name="c")
""",
        then="sorted(tasks.batches()['total']) == [2, 2, 3]",
    ),
    Hint(
        hint="data.head().collect() shows why; the path of its file needs the least memory",
        before="import polars\ndata = polars.LazyFrame({'n': [1]}).select(polars.col('n').str.len_chars())\n",
        mistake="queue.fan_out(data, url=url)",
        follow="try:\n    «data.head().collect()»\nexcept polars.exceptions.PolarsError as error:\n    why = error",
        then="why",
    ),
    Hint(
        hint="say what it holds: data=pd.read_csv('§', dtype={'shop': str}, chunksize=§)",
        before=PAUSED + "rows = ['1'] * 9_000 + ['north']\n"
        "(tmp_path / 'shops.csv').write_text('shop\\n' + '\\n'.join(rows))\n",
        mistake="queue.fan_out(str(tmp_path / 'shops.csv'), url=url, key=ct.ROW)",
        follow="queue.fan_out(url=url, key=ct.ROW, «data=pd.read_csv('§', dtype={'shop': str}, chunksize=§)»)",
        then="it.progress().total == 9_001",
    ),
    Hint(
        hint="say what the first cell is: data=pd.read_csv('§', index_col=0) if it is a label of the row, "
        "index_col=False if it belongs to the first name, and the last cell to none",
        before=PAUSED + "(tmp_path / 'shops.csv').write_text('shop,n\\na,bern,1\\nb,basel,2\\n')\n",
        mistake="queue.fan_out(str(tmp_path / 'shops.csv'), url=url)",
        follow="queue.fan_out(url=url, «data=pd.read_csv('§', index_col=0)»)",
        then="it.tasks()['shop'].tolist() == ['bern', 'basel']",
    ),
    Hint(
        hint="one account signs for all rows: service_account=§",
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, service_account='{day}')",
        follow="queue.fan_out(df, url=url, «service_account=§»)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="add service_account=§",
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, audience='https://a.example')",
        follow="queue.fan_out(df, url=url, audience='https://a.example', «service_account=§»)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint='use errors="skip"',
        before=PAUSED,
        mistake="queue.fan_out(df, url=url, errors='ignore')",
        follow='queue.fan_out(df, url=url, «errors="skip"»)',
        then="it.progress().total == 2",
    ),
    Hint(
        hint="leave them out first: df.dropna(subset=['day']); or errors=\"skip\" sends the other rows and lists these as rejected",
        before=PAUSED + "df.loc[1, 'day'] = None\n",
        mistake="queue.fan_out(df, url=url + '/{day}')",
        follow="queue.fan_out(«df.dropna(subset=['day'])», url=url + '/{day}', name='a')\n"
        "queue.fan_out(df, url=url + '/{day}', name='b', «errors=\"skip\"»)",
        then="sorted(tasks.batches()['total']) == [1, 2]",
    ),
    Hint(
        hint='add the time zone: tz="UTC", tz="Europe/Zurich"',
        before=PAUSED + "df['due'] = pd.Timestamp.now() + pd.Timedelta('2D')\n",
        mistake="queue.fan_out(df, url=url, at='{due}')",
        follow="queue.fan_out(df, url=url, at='{due}', name='a', «tz=\"UTC\"»)\n"
        "queue.fan_out(df, url=url, at='{due}', name='b', «tz=\"Europe/Zurich\"»)",
        then="len(tasks.batches()) == 2",
    ),
    Hint(
        hint='tasks.queue("reports").update(rate=0.002), or send_rate=0.001: rows wait here then, and are sent as fast as '
        "the queue dispatches them",
        before="queue.update(rate=0.001); queue.pause(); df = pd.DataFrame({'n': range(3_000)})\n",
        mistake="queue.fan_out(df, url=url)",
        follow="plan = queue.fan_out(df, url=url, dry_run=True, «send_rate=0.001»)\n"
        "«tasks.queue(\"reports\").update(rate=0.002)»\nqueue.fan_out(df, url=url, dry_run=True)",
        then="len(it.frame) == len(plan.frame)",
    ),
    Hint(
        hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        before=PAUSED + "text = 'half \\ud83d'\n",
        mistake="queue.enqueue(url, {'text': text})",
        follow="queue.enqueue(url, {'text': «text.encode(\"utf-16\", \"surrogatepass\").decode(\"utf-16\", \"replace\")»})",
        then="len(queue.tasks()) == 1",
    ),
    Hint(
        hint='repair it: text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        before=PAUSED + "text = 'half \\ud83d'\n",
        mistake="queue.fan_out(df, url=url, body=text)",
        follow="queue.fan_out(df, url=url, key=ct.ROW, "
        "body=«text.encode(\"utf-16\", \"surrogatepass\").decode(\"utf-16\", \"replace\")»)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="ct.url(fn) takes a function of the row, a dictionary",
        before=PAUSED + "fn = lambda row: url + '/' + row['day']\n",
        mistake="ct.url(url)",
        follow="queue.fan_out(df, url=«ct.url(fn)»)",
        then="it.tasks()['url'].tolist()[0].endswith('2013-01-01')",
    ),
    Hint(
        hint="url=ct.serve(report) calls it for each task; url=ct.url(report) if it returns the URL of a row",
        before="",
        mistake="queue.fan_out(df, url=report)",
        follow="queue.fan_out(df, «url=ct.serve(report)»).wait('240s')\nqueue.pause()\n"
        "def report(row):\n    return url + '/' + row['day']\nqueue.fan_out(df, «url=ct.url(report)»)",
        then="it.tasks()['url'].tolist()[0].endswith('2013-01-01')",
    ),
    Hint(
        hint="use text: base64.b64encode(value).decode()",
        before=PAUSED + "import base64\nvalue = b'a'\n",
        mistake="queue.enqueue(url, {'n': value})",
        follow="queue.enqueue(url, {'n': «base64.b64encode(value).decode()»})",
        then="len(queue.tasks()) == 1",
    ),
    Hint(
        hint='across={"shop": ["a", "b"]}, or a DataFrame with a row a combination',
        before=PAUSED,
        mistake="queue.backfill('2013-01-01', '2013-01-02', freq='D', url=url, across=7)",
        follow="queue.backfill('2013-01-01', '2013-01-02', freq='D', url=url, «across={\"shop\": [\"a\", \"b\"]}»)",
        then="it.progress().total == 4",
    ),
    Hint(
        hint='across=shops, a DataFrame with a row a shop: pd.DataFrame({"shop": ["bern"], "tz": ["Europe/Zurich"]})',
        before=PAUSED,
        mistake="queue.backfill('2013-01-01', '2013-01-02', freq='D', url=url, tz='{tz}')",
        follow="shops = «pd.DataFrame({\"shop\": [\"bern\"], \"tz\": [\"Europe/Zurich\"]})»\n"
        "queue.backfill('2013-01-01', '2013-01-02', freq='D', url=url, tz='{tz}', «across=shops»)",
        then="it.progress().total == 2",
    ),
)

BATCHES = (
    Hint(
        hint="the batch continues: batch.wait() waits longer, batch.progress() shows its state",
        before=WAITING,
        mistake="batch.wait('1ms')",
        follow="queue.resume()\n«batch.wait()»\n«batch.progress()»",
        then="it.succeeded == 2",
    ),
    Hint(
        hint="batch.results(page=50_000)",
        before=DONE,
        mistake="batch.results(page=0)",
        follow="pd.concat(«batch.results(page=50_000)»)",
        then="len(it) == 2",
    ),
    Hint(
        hint="batch.whole.delete() deletes all of it",
        before=DONE + "batch = queue.fan_out(df.head(1), url=handler)\n",
        mistake="batch.delete()",
        follow="«batch.whole.delete()»",
        then="tasks.batches().empty",
    ),
    Hint(
        hint='tasks.batches() lists the batches: tasks.batch("a91f03c2") or tasks.batch("march")',
        before=PAUSED + "queue.fan_out(df, url=url, name='march')\n",
        mistake="tasks.batch(7)",
        follow="listed = «tasks.batches()»\n«tasks.batch(\"march\")»\ntasks.batch(it.id)",
        then="it.id in listed.index",
    ),
    Hint(
        hint="tasks.batches() lists those there are; queue.fan_out(...) makes one",
        before=PAUSED,
        mistake="tasks.batch('march')",
        follow="«queue.fan_out(»df, url=url, name='march')\n«tasks.batches()»",
        then="len(it) == 1 and tasks.batch('march')",
    ),
    Hint(
        hint="tasks.batches() lists those there are",
        before=DONE + "batch.delete()\n",
        mistake="batch.status()",
        follow="«tasks.batches()»",
        then="it.empty",
    ),
    Hint(
        hint='batch.on_complete("https://…")',
        before=WAITING,
        mistake="batch.on_complete(7)",
        follow='«batch.on_complete("https://»done.example«")»',
    ),
    Hint(
        hint='name another queue: batch.on_complete(url, queue="notices")',
        before=WAITING + "queue.route('https://other.example')\n",
        mistake="batch.on_complete(url)",
        follow="tasks.queue('notices', create=True)\n«batch.on_complete(url, queue=\"notices\")»",
    ),
    Hint(
        hint='queue="notices", or tasks.queue("notices")',
        before=WAITING,
        mistake="batch.on_complete(url, queue=7)",
        follow="tasks.queue('notices', create=True)\nbatch.on_complete(url, «queue=\"notices\"»)\n"
        "batch.on_complete(url, queue=«tasks.queue(\"notices\")»)",
    ),
    Hint(
        hint="batch.cancel() ends the sending and deletes its tasks; then batch.wait() and batch.delete()",
        before=WAITING,
        mistake="batch.delete()",
        follow="«batch.cancel()»\n«batch.wait()»\n«batch.delete()»",
        then="tasks.batches().empty",
    ),
    Hint(
        hint='give a status ("UNAVAILABLE", 503, "5xx"), a cause of batch.errors(), its exception ("KeyError"), '
        "a list of these, or a frame of rows",
        before=FAILED,
        mistake="batch.retry_failed(7.5)",
        follow="batch.retry_failed(«batch.errors()»['cause'][0])\nbatch.wait()",
        then="batch.tasks()['try'].tolist() == [2, 1]",
    ),
    Hint(
        hint="the failed rows have KeyError: 'never' 1: batch.errors()",
        before=FAILED,
        mistake="batch.retry_failed('ValueError')",
        follow="batch.retry_failed(«batch.errors()»)\nbatch.wait()",
        then="batch.tasks()['try'].tolist() == [2, 1]",
    ),
    Hint(
        hint="1 failed (KeyError: 'never' 1) → batch.retry_failed()",
        before=FAILED,
        mistake="batch.status()",
        follow="«batch.retry_failed()»\nbatch.wait()",
        then="batch.tasks()['try'].tolist() == [2, 1]",
    ),
    Hint(
        hint="1 rejected → batch.tasks().query(\"state == 'rejected'\")",
        before=SERVED + "df['origin'] = ['JFK', float('inf')]\n"
        "batch = queue.fan_out(df, url=handler, errors='skip')\nbatch.wait()\n",
        mistake="batch",
        follow="«batch.tasks().query(\"state == '§'\")»",
        then="len(it) == 1",
    ),
    Hint(
        hint="2 cancelled → batch.resend(batch.tasks().query(\"state == 'cancelled'\"))",
        before=WAITING + "batch.cancel()\nbatch.wait()\n",
        mistake="batch.status()",
        follow="queue.resume()\n«batch.resend(batch.tasks().query(\"state == 'cancelled'\"))»\nbatch.wait()",
        then="it.succeeded == 2",
    ),
    Hint(
        hint="take rows of batch.tasks() or batch.failed() of this batch; nothing was sent",
        before=FAILED + "other = batch; batch = queue.fan_out(df.tail(1), url=handler, name='b')\nbatch.wait()\n",
        mistake="batch.resend(other.tasks())",
        follow="batch.resend(«batch.tasks()»)\nbatch.resend(«batch.failed()»)\nbatch.wait()",
        then="batch.tasks()['try'].tolist() == [2]",
    ),
    Hint(
        hint="failed = batch.failed(); batch.resend(failed.head(3))",
        before=FAILED,
        mistake="batch.resend(df)",
        follow="«failed = batch.failed(); batch.resend(failed.head(3))»\nbatch.wait()",
        then="batch.tasks()['try'].tolist() == [2, 1]",
    ),
    Hint(
        hint="batch.resume() sends them, batch.cancel() drops them",
        before=SERVED + "batch = queue.fan_out(df.replace('2013-01-01', 'never'), url=handler, canary=1)\n",
        mistake="batch.wait()",
        follow="«batch.resume()»\nbatch.wait()",
        then="it.succeeded == 1",
    ),
    Hint(
        hint="batch.resume() sends them, batch.cancel() drops them",
        before=SERVED + "batch = queue.fan_out(df.replace('2013-01-01', 'never'), url=handler, canary=1)\n",
        mistake="batch.wait()",
        follow="«batch.cancel()»\nbatch.wait()",
        then="it.cancelled == 1",
    ),
    Hint(
        hint="queue.fan_out(df, url=handler), with what ct.serve or ct.deploy returned, says which one is wanted",
        before=SERVED + "batch = queue.fan_out(df, url=handler.url)\nbatch.wait()\n",
        mistake="batch.stale()",
        follow="batch = «queue.fan_out(df, url=handler)»\nbatch.wait()\nbatch.stale()",
        then="it.empty",
    ),
    Hint(
        hint='tasks.batch("a") shows it, any new name sends all',
        before=PAUSED + "queue.fan_out(df, url=url, name='a')\n",
        mistake="queue.fan_out(df, url=url)",
        follow="«tasks.batch(\"a\")»",
        then="it.progress().total == 2",
    ),
    Hint(
        hint='name="a" sends the other 1, any new name sends all',
        before=PAUSED + "queue.fan_out(df.head(1), url=url, name='a')\n",
        mistake="queue.fan_out(df, url=url)",
        follow="queue.fan_out(df, url=url, «name=\"a\"»)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="data.iloc[[1]] with a new name sends what has changed, any new name sends all, "
        "and key=[...] may name more columns that distinguish rows",
        before=PAUSED + "data = df.assign(n=[1, 2])\nqueue.fan_out(data, url=url, key='day', name='a')\ndata.loc[1, 'n'] = 3\n",
        mistake="queue.fan_out(data, url=url, key='day', name='a')",
        follow="queue.fan_out(«data.iloc[[1]]», url=url, key='day', name='b')\n"
        "queue.fan_out(data, url=url, «key=[»'day', 'n'«]», name='c')",
        then="sorted(tasks.batches()['total']) == [1, 2, 2]",
    ),
    Hint(
        hint="the rows with a problem in plan.frame, of dry_run=True, with a new name sends what has changed",
        before=PAUSED + "df = pd.DataFrame({'k': range(30), 'n': 1})\nqueue.fan_out(df, url=url, key='k', name='a')\ndf['n'] = 2\n",
        mistake="queue.fan_out(df, url=url, key='k', name='a')",
        follow="plan = queue.fan_out(df, url=url, key='k', name='a', «dry_run=True»)\n"
        "queue.fan_out(df[plan.frame['problem'].notna().to_numpy()], url=url, key='k', name='b')",
        then="it.progress().total == 30",
    ),
    Hint(
        hint="computing 2 rows again; stale=\"keep\" keeps them",
        before="queue.map(report, df)\n",
        mistake="def report(day, origin):\n    return 2\nqueue.map(report, df)",
        follow="def report(day, origin):\n    return 3\nqueue.map(report, df, «stale=\"keep\"»)",
        then="it['result'].tolist() == [2, 2]",
    ),
)
PLANS = (
    Hint(
        hint="call fan_out with a new iterator and without dry_run=True",
        before=PAUSED + "plan = queue.fan_out(iter([df]), url=url, dry_run=True)\n",
        mistake="plan.submit()",
        follow="queue.fan_out(iter([df]), url=url)",
        then="it.progress().total == 2",
    ),
    Hint(
        hint="plan a few rows in a DataFrame: queue.fan_out(df, ..., dry_run=True).try_one()",
        before=SERVED + "plan = queue.fan_out(iter([df]), url=handler, dry_run=True)\n",
        mistake="plan.try_one()",
        follow="«queue.fan_out(df, »url=handler«, dry_run=True).try_one()»",
        then="it.result == 'JFK on 2013-01-01'",
    ),
    Hint(
        hint="the first is plan.try_one(row=0)",
        before=SERVED + "plan = queue.fan_out(df, url=handler, dry_run=True)\n",
        mistake="plan.try_one(row=-1)",
        follow="«plan.try_one(row=0)»",
        then="it.result == 'JFK on 2013-01-01'",
    ),
    Hint(
        hint="plan.try_one(row=0)",
        before=SERVED + "plan = queue.fan_out(df, url=handler, dry_run=True)\n",
        mistake="plan.try_one(row=7)",
        follow="«plan.try_one(row=0)»",
        then="it.result == 'JFK on 2013-01-01'",
    ),
    Hint(
        hint="failures=0.05 for a twentieth of the attempts",
        before=PAUSED + "plan = queue.fan_out(df, url=url, dry_run=True)\n",
        mistake="plan.simulate(failures=5)",
        follow="plan.simulate(«failures=0.05»)",
    ),
    Hint(
        hint="seed=1 draws other attempts than seed=0",
        before=PAUSED + "plan = queue.fan_out(df, url=url, dry_run=True)\n",
        mistake="plan.simulate(seed=-1)",
        follow="plan.simulate(«seed=1»)\nplan.simulate(«seed=0»)",
    ),
)
CONNECTION = (
    Hint(
        hint='tasks.queue("reports", create=True, …) or tasks.queue("reports").update(…)',
        mistake="tasks.queue('reports', rate=5)",
        follow="«tasks.queue(\"reports\", create=True, »rate=5«)»\n«tasks.queue(\"reports\").update(»rate=6«)»",
        then="tasks.queues()['rate'].item() == 6",
    ),
    Hint(
        hint='tasks.queue("reports")',
        mistake="tasks.queue(7)",
        follow="«tasks.queue(\"reports\")»",
        then="it.id == 'reports'",
    ),
    Hint(
        hint="rehearse with tasks = ct.local(); elsewhere queue.run(frame) dispatches tasks now",
        before=GOOGLE,
        mistake="tasks.clock.advance('1h')",
        follow="«tasks = ct.local()»\ntasks.clock.advance('1h')\n"
        "queue = tasks.queue('b', create=True).pause()\nhandler = ct.serve(report)\n"
        "queue.enqueue(handler, {'day': '2013-01-01'})\nframe = queue.tasks()\n«queue.run(frame)»",
        then="it['ok'].all()",
    ),
    Hint(
        hint="2 tasks waiting, the queue is paused: queue.resume()",
        before=WAITING,
        mistake="tasks.clock.advance('1h')",
        follow="«queue.resume()»\nbatch.wait()",
        then="it.succeeded == 2",
    ),
    Hint(
        hint='name a folder, ct.local("folder"), or leave it out, ct.local(): then nothing is kept',
        mistake="ct.local('')",
        follow="«ct.local(\"folder\")».close()\n«ct.local()»",
        then="it.queues() is not None",
    ),
    Hint(
        hint="give workers= where it was made, or the function itself: queue.map(fn, …)",
        before=SERVED + "fn = report\n",
        mistake="queue.map(handler, df, workers=2)",
        follow="«queue.map(fn, »df, workers=2«)»",
        then="it.iloc[:, -1].tolist() != []",
    ),
    Hint(
        hint='queue.map(lambda value: add(value), …, name="add")',
        before="def add(*values):\n    return sum(values)\n",
        mistake="queue.map(add, [1, 2])",
        follow="«queue.map(lambda value: add(value), »[1, 2]«, name=\"add\")»",
        then="it['result'].tolist() == [1, 2]",
    ),
    Hint(
        hint="batch.attempts() reads its attempts",
        before=DONE + "other = tasks.queue('other', create=True)\n",
        mistake="other.attempts(batch=batch)",
        follow="«batch.attempts()»",
        then="len(it) == 2",
    ),
    Hint(
        hint='the batch, its id or its name: queue.attempts(batch="a91f03c2")',
        before=DONE,
        mistake="queue.attempts(batch=7)",
        follow="«queue.attempts(batch=»batch.id)",
        then="len(it) == 2",
    ),
    Hint(
        hint='add an offset: since="2030-01-02 06:00:00+00:00"; or give a duration back from now: since="2h"',
        before=DONE,
        mistake="queue.attempts(since='2030-01-02 06:00')",
        follow="queue.attempts(«since=\"2030-01-02 06:00:00+00:00\"»)\nqueue.attempts(«since=\"2h\"»)",
        then="len(it) == 2",
    ),
    Hint(
        hint="give a frame of queue.tasks() or a list of task ids",
        before=SENT,
        mistake="queue.delete_tasks(7)",
        follow="queue.delete_tasks(«queue.tasks()»)",
        then="queue.tasks().empty",
    ),
    Hint(
        hint="give a frame of queue.tasks(), batch.tasks() or attempts()",
        before=SENT,
        mistake="queue.delete_tasks(df)",
        follow="queue.delete_tasks(«queue.tasks()».head(1))\nqueue.delete_tasks(«batch.tasks()»)",
        then="queue.tasks().empty",
    ),
    Hint(
        hint='tasks.queue("reports") has the verbs for it',
        before=SENT + "other = tasks.queue('other', create=True)\n",
        mistake="other.delete_tasks(queue.tasks())",
        follow="«tasks.queue(\"reports\")».delete_tasks(queue.tasks())",
        then="queue.tasks().empty",
    ),
    Hint(
        hint="the tasks stay in the queue: queue.wait(…) waits longer, queue.tasks() lists them",
        before=SENT + "listed = queue.tasks()\n",
        mistake="queue.wait(listed, timeout='1ms')",
        follow="«queue.tasks()»\nqueue.resume()\n«queue.wait(»listed«)»",
        then="len(it) == 2",
    ),
    Hint(
        hint='tasks.queue("nowhere", create=True) creates it; tasks.queues() lists the queues',
        mistake="tasks.queue('nowhere').tasks()",
        follow="«tasks.queue(\"nowhere\", create=True)»\n«tasks.queues()»",
        then="sorted(it.index) == ['nowhere', 'reports']",
    ),
    Hint(
        hint='use another name, tasks.queue("reports-2", create=True); tasks.clock.advance("3d") moves the emulator past '
        "that; tasks.queues() lists the queues",
        before="queue.delete()\n",
        mistake="queue.tasks()",
        follow="«tasks.queue(\"reports-2\", create=True)»\n«tasks.clock.advance(\"3d\")»\n"
        "tasks.queue('reports', create=True)\n«tasks.queues()»",
        then="sorted(it.index) == ['reports', 'reports-2']",
    ),
    Hint(
        hint="a task is deleted when it succeeds or has no attempts left: queue.attempts() shows which",
        before=DONE + "task = batch.tasks()['task'].iloc[0]\n",
        mistake="tasks._connection.call('GetTask', name=f'{queue.name}/tasks/{task}')",
        follow="«queue.attempts()»",
        then="len(it) == 2",
    ),
    Hint(
        hint="make a new one: ct.connect() or ct.local()",
        before="tasks.close()\n",
        mistake="queue.tasks()",
        follow="tasks = «ct.connect()»\ntasks = «ct.local()»",
        then="len(tasks.queues()) == 1",
    ),
)

DEPLOYING = """
monkeypatch.setenv("PATH", str(tmp_path / "bin"))
monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project")
monkeypatch.setenv("CLOUDTASKS_NB_LOCATION", "europe-west1")
monkeypatch.setenv("CLOUDTASKS_NB_STORE", "gs://team/tasks")
"""
GCLOUD = (
    DEPLOYING
    + """
from tests import gcloud
(tmp_path / "bin").mkdir()
state = gcloud.install(tmp_path / "bin", url="https://report-abc123.a.run.app")
monkeypatch.setenv("GCLOUD_STATE", str(state))
"""
)
HANDLERS = (
    Hint(
        hint="give the function itself, ct.serve(report), not what a call of it returns",
        mistake="ct.serve(report('2013-01-01'))",
        follow="queue.wait(queue.enqueue(«ct.serve(report)», {'day': '2013-01-01'}))",
        then="it['result'].tolist() == ['JFK on 2013-01-01']",
    ),
    Hint(
        hint="serve a function that exhausts it, such as: def run(**row): return list(report(**row))",
        before="def report(day, origin):\n    yield day\n",
        mistake="ct.serve(report)",
        follow="«def run(**row): return list(report(**row))»\nbatch = queue.fan_out(df, url=ct.serve(run))\nbatch.wait()\n"
        "batch.results()",
        then="it['result'].tolist() == [['2013-01-01'], ['2013-01-02']]",
    ),
    Hint(
        hint="ct.serve(report) serves it again",
        before=SERVED + "handler.close()\n",
        mistake="handler",
        follow="queue.wait(queue.enqueue(«ct.serve(report)», {'day': '2013-01-01'}))",
        then="it['result'].tolist() == ['JFK on 2013-01-01']",
    ),
    Hint(
        hint='its tasks will reach no other handler; ct.serve(fn, name="report") has an address that stays',
        before="fn = lambda day: day\nhandler = ct.serve(fn)\nhandler.close()\n",
        mistake="handler",
        follow="handler = «ct.serve(fn, name=\"report\")»\nhandler.close()\nct.serve(fn, name='report')",
        then="it.url == handler.url",
    ),
    Hint(
        hint="handler.calls()",
        before=DONE,
        mistake="print(handler._repr_mimebundle_()['text/plain'])",
        follow="«handler.calls()»",
        then="len(it) == 2",
    ),
    Hint(
        hint="queue.enqueue(handler, {...})",
        before="handler = ct.serve(int, name='int')\n",
        mistake="print(handler._repr_mimebundle_()['text/plain'])",
        follow="«queue.enqueue(handler, {»'x': 7«})»",
    ),
    Hint(
        hint='queue.enqueue(handler, {"day": ...})',
        before=SERVED,
        mistake="print(handler._repr_mimebundle_()['text/plain'])",
        follow="task = «queue.enqueue(handler, {\"day\": »'2013-01-01'«})»\nqueue.wait(task)",
        then="it['result'].tolist() == ['JFK on 2013-01-01']",
    ),
    Hint(
        hint="batch.results() has the results of all rows",
        before="monkeypatch.setattr('cloudtasks_nb.handlers.history.CallHistory.__init__.__defaults__', (1, 10))\n" + DONE,
        mistake="print(handler._repr_mimebundle_()['text/plain'])",
        follow="«batch.results()»",
        then="len(it) == 2",
    ),
    Hint(
        hint='a function without a name of its own: § is new, tasks that were sent before will not reach it; name="..." '
        "gives it a URL that stays",
        mistake="ct.serve(lambda day: day)",
        follow="ct.serve(lambda day: day, «name=\"»weekday«\"»)",
        then="'weekday' in it.url",
    ),
    Hint(
        hint='use a word: name="report"',
        mistake="ct.serve(report, name='a/b')",
        follow="ct.serve(report, «name=\"report\"»)",
        then="it.name == 'report'",
    ),
    Hint(
        hint="make one before, tasks = ct.local(), or give one: ct.serve(fn, service_account=..., tasks=tasks)",
        before="tasks.close(); fn = report; account = 'caller@demo.iam.gserviceaccount.com'\n",
        mistake="ct.serve(fn, service_account=account)",
        follow="«tasks = ct.local()»\nct.serve(fn, service_account=account)\n"
        "«ct.serve(fn, service_account=»account«, tasks=tasks)»",
        then="it.name == 'report'",
    ),
    Hint(
        hint="give what ct.local() or ct.connect() returned",
        before="account = 'caller@demo.iam.gserviceaccount.com'\n",
        mistake="ct.serve(report, service_account=account, tasks=queue)",
        follow="ct.serve(report, service_account=account, tasks=«ct.local()»)\n"
        "ct.serve(report, service_account=account, tasks=«ct.connect()»)",
        then="it.name == 'report'",
    ),
    Hint(
        hint="give_up_on=(KeyError, ValueError): the classes themselves, without quotes",
        mistake="ct.serve(report, give_up_on='KeyError')",
        follow="ct.serve(report, «give_up_on=(KeyError, ValueError)»)",
        then="it.name == 'report'",
    ),
    Hint(
        hint='app(fn, audience="https://my-service.run.app", service_account="sa@my-project.iam.gserviceaccount.com")',
        before="from cloudtasks_nb.handlers import app\nfn = report\n",
        mistake="app(fn)",
        follow='«app(fn, audience="https://my-service.run.app", service_account="sa@my-project.iam.gserviceaccount.com")»',
        then="callable(it)",
    ),
    Hint(
        hint='app({"/run": report}, …)',
        before="from cloudtasks_nb.handlers import app\naccount = 'caller@demo.iam.gserviceaccount.com'\n",
        mistake="app({}, audience='https://a.example', service_account=account)",
        follow='«app({"/run": report}, »audience="https://a.example", service_account=account«)»',
        then="callable(it)",
    ),
    Hint(
        hint="private=True or CLOUDTASKS_NB_PRIVATE=1 if it is, else neither",
        before="from cloudtasks_nb.handlers import app\naccount = 'caller@demo.iam.gserviceaccount.com'\n",
        mistake="app(report, audience='https://a.example', service_account=account, private='yes')",
        follow="app(report, audience='https://a.example', service_account=account, «private=True»)",
        then="callable(it)",
    ),
    Hint(
        hint='variables of the service would be lost: gcloud=["--update-env-vars=NAME=VALUE"] adds one',
        before=DEPLOYING,
        mistake="ct.deploy(report, gcloud=['--set-env-vars=A=1'])",
        follow='ct.deploy(report, «gcloud=["--update-env-vars=NAME=VALUE"]»)',
        then="'NAME=VALUE' in ' '.join(it.commands)",
    ),
    Hint(
        hint="ct.deploy(report, …, run=True), or type what service.commands lists",
        before=GCLOUD.replace("url=\"https://report-abc123.a.run.app\"", "") + "service = ct.deploy(report)\n",
        mistake="service.url",
        follow="«ct.deploy(report, »service='report'«, run=True)»",
        then="service.commands",
    ),
    Hint(
        hint='requirements=["pandas>=2", "pyarrow"]',
        before=DEPLOYING,
        mistake="ct.deploy(report, requirements='pandas')",
        follow='ct.deploy(report, «requirements=["pandas>=2", "pyarrow"]»)',
        then="'pyarrow' in (it.folder / 'requirements.txt').read_text()",
    ),
    Hint(
        hint='names of variables, keys, parameters or attributes: public=("MODEL_ID",)',
        before=DEPLOYING + "MODEL_ID = '7'\n",
        mistake="ct.deploy(report, public='MODEL_ID')",
        follow='ct.deploy(report, «public=("MODEL_ID",)»)',
        then="it.name == 'report'",
    ),
    Hint(
        hint='gcloud=["--memory=2Gi", "--max-instances=20"]',
        before=DEPLOYING,
        mistake="ct.deploy(report, gcloud='--memory=2Gi')",
        follow='ct.deploy(report, «gcloud=["--memory=2Gi", "--max-instances=20"]»)',
        then="'--memory=2Gi' in ' '.join(it.commands)",
    ),
    Hint(
        hint='at most 49 lower-case letters, digits and hyphens, a letter first: service="daily-report"',
        before=DEPLOYING,
        mistake="ct.deploy(report, service='7')",
        follow='ct.deploy(report, «service="daily-report"»)',
        then="it.name == 'daily-report'",
    ),
    Hint(
        hint='store="gs://bucket/prefix", the same as in ct.connect(…, store=…)',
        before=DEPLOYING,
        mistake="ct.deploy(report, store='results')",
        follow='service = ct.deploy(report, «store="gs://bucket/prefix"»)\n'
        '«ct.connect(»"my-project", "us-central1"«, store=»service.store«)»',
        then="service.store == 'gs://bucket/prefix'",
    ),
    Hint(
        hint='store="gs://bucket/prefix"',
        before=DEPLOYING,
        mistake="ct.deploy(report, store='gs://')",
        follow='ct.deploy(report, «store="gs://bucket/prefix"»)',
        then="it.store == 'gs://bucket/prefix'",
    ),
    Hint(
        hint='move it away, or name another service: ct.deploy(…, service="other")',
        before=DEPLOYING + "folder = ct.deploy(report).folder\n(folder / 'main.py').write_text('mine')\n",
        mistake="ct.deploy(report)",
        follow='«ct.deploy(»report«, service="other")»',
        then="(folder / 'main.py').read_text() == 'mine'",
    ),
    Hint(
        hint='move what is there away, or name another service: service="other"',
        before=DEPLOYING + "folder = ct.deploy(report).folder\nimport shutil\nshutil.rmtree(folder)\nfolder.write_text('')\n",
        mistake="ct.deploy(report)",
        follow='ct.deploy(report, «service="other"»)',
        then="it.name == 'other'",
    ),
    Hint(
        hint="mend it and call ct.deploy(…, run=True) again: commands that were run before do no harm",
        before=GCLOUD + "import json\nfacts = json.loads(state.read_text())\n"
        "state.write_text(json.dumps(facts | {'fails': 'services enable', 'failures': 1}))\n",
        mistake="ct.deploy(report, run=True)",
        follow="«ct.deploy(»report«, run=True)»",
        then="it.url == 'https://report-abc123.a.run.app'",
    ),
    Hint(
        hint='install it here; or name it: ct.deploy(…, requirements=["homemade"])',
        before=DEPLOYING + "import sys, types\nhomemade = types.ModuleType('homemade')\n"
        "monkeypatch.setitem(sys.modules, 'homemade', homemade)\ndef report(day):\n    import homemade\n    return homemade\n",
        mistake="ct.deploy(report)",
        follow='«ct.deploy(»report«, requirements=["homemade"])»',
        then="'homemade' in (it.folder / 'requirements.txt').read_text()",
    ),
    Hint(
        hint='import it before; or name it: ct.deploy(…, requirements=["google-api-core"])',
        before=DEPLOYING + "def report(day):\n    import google.nowhere\n    return google.nowhere\n",
        mistake="ct.deploy(report)",
        follow='«ct.deploy(»report«, requirements=["§"])»',
        then="it.name == 'report'",
    ),
    Hint(
        hint='name where it can be had: ct.deploy(…, requirements=["§ @ git+https://…"])',
        before=DEPLOYING + "import pandas\ndef report(day):\n    return pandas.Timestamp(day)\n"
        "from importlib.metadata import PathDistribution\nread = PathDistribution.read_text\n"
        "folder = lambda self, name: '{\"dir_info\": {}}' if name == 'direct_url.json' and self.name == 'pandas' else read(self, name)\n"
        "monkeypatch.setattr(PathDistribution, 'read_text', folder)\n",
        mistake="ct.deploy(report)",
        follow='«ct.deploy(»report«, requirements=["§ @ git+https://»example.com/it«"])»',
        then="'git+https' in (it.folder / 'requirements.txt').read_text()",
    ),
    Hint(
        hint='read it inside the function, os.environ["PASSWORD"], and give it to the service: '
        'ct.deploy(…, gcloud=["--set-secrets=PASSWORD=my-secret:latest"]); the account that it runs as needs '
        "gcloud secrets add-iam-policy-binding my-secret --member=serviceAccount:… "
        "--role=roles/secretmanager.secretAccessor --condition=None. If it is no secret: ",
        before=DEPLOYING + "def report(day):\n    password = 'swordfish7Kq'\n    return password\n",
        mistake="ct.deploy(report)",
        follow="def report(day):\n    import os\n    return «os.environ[\"PASSWORD\"]»\n"
        '«ct.deploy(»report«, gcloud=["--set-secrets=PASSWORD=my-secret:latest"])»',
        then="'--set-secrets' in ' '.join(it.commands)",
    ),
    Hint(
        hint='If it is no secret: public=("password",)',
        before=DEPLOYING + "def report(day):\n    password = 'swordfish7Kq'\n    return password\n",
        mistake="ct.deploy(report)",
        follow='ct.deploy(report, «public=("password",)»)',
        then="'swordfish7Kq' in (it.folder / 'main.py').read_text()",
    ),
    Hint(
        hint='If it is no secret: a variable, NAME = …, and public=("NAME",)',
        before=DEPLOYING + "def report(day):\n    return 'ghp_' 'swordfish7Kq9Zxswordfish7Kq9Zxabcdef'\n",
        mistake="ct.deploy(report)",
        follow="«NAME = »'ghp_' 'swordfish7Kq9Zxswordfish7Kq9Zxabcdef'\ndef report(day):\n    return NAME\n"
        'ct.deploy(report, «public=("NAME",)»)',
        then="'swordfish7Kq9Zxabcdef' in (it.folder / 'main.py').read_text()",
    ),
    Hint(
        hint="return ends the function, and raise ct.GiveUp(…) the row",
        before=DEPLOYING + "from types import SimpleNamespace\nfrom IPython.core.autocall import ExitAutocall\nexit = ExitAutocall()\n"
        "monkeypatch.setattr('IPython.get_ipython', lambda: SimpleNamespace(user_ns_hidden={'exit': exit}))\n"
        "def report(day):\n    exit()\n",
        mistake="ct.deploy(report)",
        follow="def report(day):\n    «raise ct.GiveUp(»'no such day'«)»\nct.deploy(report)",
        then="it.name == 'report'",
    ),
)
GOOGLE_ITSELF = (
    Hint(
        hint="service = ct.deploy(report, …, run=True) makes a service of it: queue.map(service, …)",
        before=SERVED + GCLOUD.replace('"https://report-abc123.a.run.app"', "handler.url") + GOOGLE,
        mistake="queue.map(report, df)",
        follow="«service = ct.deploy(report, »store='gs://team/tasks'«, run=True)»\n"
        "queue = ct.local(store='results').queue('reports')\n«queue.map(service, »df«)»",
        then="it['state'].tolist() == ['succeeded', 'succeeded']",
    ),
    Hint(
        hint="ct.deploy(fn) makes a service for Cloud Run of the function; or rehearse with ct.local()",
        before=DEPLOYING + GOOGLE + "fn = report\n",
        mistake="queue.enqueue(url)",
        follow="«ct.deploy(fn)»\nqueue = «ct.local()».queue('reports')\nqueue.pause().enqueue(url)",
        then="len(queue.tasks()) == 1",
    ),
    Hint(
        hint='ct.connect("my-project", "us-central1"), or set GOOGLE_CLOUD_PROJECT, or run: gcloud config set project MY-PROJECT',
        before="from google.auth.credentials import AnonymousCredentials\n"
        "monkeypatch.setattr('google.auth.default', lambda **_: (AnonymousCredentials(), None))\n",
        mistake="ct.connect(location='us-central1').queue('reports')",
        follow='«ct.connect("my-project", "us-central1")».queue("reports")',
        then="it.name == 'projects/my-project/locations/us-central1/queues/reports'",
    ),
    Hint(
        hint='ct.connect("my-project", "us-central1"), or set CLOUDTASKS_NB_LOCATION; gcloud tasks locations list shows them',
        mistake="ct.connect('my-project').queue('reports')",
        follow='«ct.connect("my-project", "us-central1")».queue("reports")',
        then="it.name == 'projects/my-project/locations/us-central1/queues/reports'",
    ),
    Hint(
        hint='use a region: ct.connect("my-project", "us-central1"); gcloud tasks locations list shows them',
        mistake="ct.connect('my-project', 'global')",
        follow='«ct.connect("my-project", "us-central1")».queue("reports")',
        then="it.name == 'projects/my-project/locations/us-central1/queues/reports'",
    ),
    Hint(
        hint='impersonate="name@project.iam.gserviceaccount.com"; gcloud iam service-accounts list',
        mistake="ct.connect('my-project', 'us-central1', impersonate='me')",
        follow='ct.connect("my-project", "us-central1", «impersonate="name@project.iam.gserviceaccount.com"»)',
        then="it.queue('reports')",
    ),
    Hint(
        hint="run: gcloud auth application-default login   (or work without an account: ct.local())",
        before=GOOGLE,
        mistake="tasks.queues()",
        follow="«ct.local()».queues()",
    ),
    Hint(
        hint="is the emulator running there? ct.local() starts one; cloudtasks-nb emulator --port 8123 too",
        before="tasks = ct.connect(endpoint='127.0.0.1:9')\ntasks._connection.transport.connect_timeout = 0.3\n",
        mistake="tasks.queues()",
        follow="«ct.local()».queues()",
        then="len(it) == 1",
    ),
)

#: Errors of the service that no emulator answers with.
REFUSED = """
from types import SimpleNamespace
import grpc
from cloudtasks_nb.errors import UnavailableError
from cloudtasks_nb.service.refusal import lost_answer, service_error
from cloudtasks_nb.service.rpcs import METHODS
def refuse(code, reason=None, message="no"):
    said = SimpleNamespace(grpc_status_code=grpc.StatusCode[code], message=message, metadata={}, reason=reason, details=())
    raise service_error(said, method=METHODS["GetQueue"], resource=queue.name, endpoint=tasks._connection.endpoint)
def lose(rpc):
    raise lost_answer(UnavailableError("lost"), method=METHODS[rpc], request=SimpleNamespace(task=queue))
"""
ANONYMOUS = "from google.auth.credentials import AnonymousCredentials\n"
QUICK = "tasks._connection.transport.connect_timeout = 0.3\n"
#: A server that does not answer, or that closes each connection.
SILENT = "import socket\nserver = socket.create_server(('127.0.0.1', 0))\nport = server.getsockname()[1]\n"
CLOSING = """
import socketserver, threading
server = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
port = server.server_address[1]
thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
thread.start()
"""
TELLING = """
from tests.integration.conftest import Answer, Target
target = Target()
"""
SERVICE = (
    Hint(
        hint="check the network; tasks.doctor() checks the rest",
        before=ANONYMOUS
        + "tasks = ct.connect('p', 'l', endpoint='https://127.0.0.1:9', credentials=AnonymousCredentials())\n"
        + QUICK,
        mistake="tasks.queues()",
        follow="«tasks.doctor()»",
        then="not it['ok'].all()",
    ),
    Hint(
        hint='ct.connect(…, transport="rest") needs no HTTP/2; tasks.doctor() checks the rest',
        before=ANONYMOUS
        + SILENT
        + "given = {'endpoint': f'https://127.0.0.1:{port}', 'credentials': AnonymousCredentials()}\n"
        + "tasks = ct.connect('p', 'l', **given)\n"
        + QUICK,
        mistake="tasks.queues()",
        follow="server.close()\n«ct.connect(»'p', 'l', **given, «transport=\"rest\")»\n«tasks.doctor()»",
        then="not it['ok'].all()",
    ),
    Hint(
        hint='an emulator without TLS is called by endpoint="host:port", without https://',
        before=ANONYMOUS
        + "own = ct.local('folder')\nurl = f'https://{own.endpoint}'\n"
        + "tasks = ct.connect('local', 'us-central1', endpoint=url, credentials=AnonymousCredentials())\n"
        + QUICK,
        mistake="tasks.queues()",
        follow="ct.connect(«endpoint=\"»127.0.0.1:\" + own.endpoint.rpartition(':')[2]).queues()",
        then="it.empty",
    ),
    Hint(
        hint='if it speaks TLS: endpoint="https://127.0.0.1:§"',
        before=CLOSING + "tasks = ct.connect('p', 'l', endpoint=f'127.0.0.1:{port}')\n" + QUICK,
        mistake="tasks.queues()",
        follow="server.shutdown()\nserver.server_close()\nthread.join()\nct.connect('p', 'l', «endpoint=\"https://127.0.0.1:§\"»)",
        then="it.endpoint == f'127.0.0.1:{port}'",
    ),
    Hint(
        hint="ct.local('§') starts the emulator again",
        before="import os, signal, json\nfrom pathlib import Path\ntasks = ct.local('folder')\ntasks.queue('kept', create=True)\n"
        "pid = json.loads(Path('folder/endpoint.json').read_text())['pid']\n"
        + QUICK
        + "os.kill(pid, signal.SIGKILL)\nfrom cloudtasks_nb.service.absent_handlers import has_ended\n"
        "while not has_ended(tasks.endpoint): continue\n",
        mistake="tasks.queues()",
        follow="«ct.local('§')».queues()",
        then="it.index.tolist() == ['kept']",
    ),
    Hint(
        hint='connect by its folder, ct.local("folder"), or with the CLOUDTASKS_NB_HOME of the kernel that started it',
        before="own = ct.local('folder')\nmonkeypatch.setenv('CLOUDTASKS_NB_HOME', str(tmp_path / 'other'))\n",
        mistake="ct.connect(endpoint=own.endpoint).queues()",
        follow="«ct.local(\"folder\")».queues()",
        then="it.empty",
    ),
    Hint(
        hint="calls are counted for the quota project §, which you may not use: gcloud projects add-iam-policy-binding § "
        "--member=§ --role=roles/serviceusage.serviceUsageConsumer --condition=None; or name another one: "
        "ct.connect(…, quota_project=…) or gcloud auth application-default set-quota-project PROJECT",
        before=GOOGLE + REFUSED + ANONYMOUS,
        mistake="refuse('PERMISSION_DENIED', 'USER_PROJECT_DENIED')",
        follow="«ct.connect(»'my-project', 'us-central1', «quota_project=»'mine'«)»",
        then="it.queue('reports')",
    ),
    Hint(
        hint="the login names no project whose quota its calls use: run: gcloud auth application-default "
        "set-quota-project my-project; or ct.connect(…, quota_project='my-project')",
        before=GOOGLE + REFUSED,
        mistake="refuse('PERMISSION_DENIED', message='the API requires a quota project')",
        follow="«ct.connect(»'my-project', 'us-central1', «quota_project='my-project')»",
        then="it.queue('reports')",
    ),
    Hint(
        hint='does project § exist, and is it spelled right? gcloud projects list shows those that you may see; '
        ' ct.connect("my-project", …) names another one',
        before=GOOGLE + REFUSED,
        mistake="refuse('PERMISSION_DENIED', 'CONSUMER_INVALID')",
        follow="«ct.connect(\"my-project\", »'us-central1'«)»",
        then="it.queue('reports')",
    ),
    Hint(
        hint="try again; if the error persists, tasks.doctor() finds the cause",
        before=REFUSED,
        mistake="refuse('UNAVAILABLE')",
        follow="«tasks.doctor()»",
        then="it['ok'].all()",
    ),
    Hint(
        hint="tasks.queues() shows it; the same call again does no harm",
        before=REFUSED,
        mistake="lose('PauseQueue')",
        follow="queue.pause()\n«tasks.queues()»",
        then="it['state'].str.lower().tolist() == ['paused']",
    ),
    Hint(
        hint="queue.tasks() shows what is in it; another purge also deletes the tasks that were created since",
        before=REFUSED,
        mistake="lose('PurgeQueue')",
        follow="«queue.tasks()»",
        then="it.empty",
    ),
    Hint(
        hint="queue.attempts() shows its attempts; another run() may dispatch it twice",
        before=REFUSED + DONE,
        mistake="lose('RunTask')",
        follow="«queue.attempts()»",
        then="len(it) == 2",
    ),
    Hint(
        hint="queue.tasks() and queue.attempts() show it; with the same task_id= it is created once",
        before=REFUSED + PAUSED,
        mistake="lose('CreateTask')",
        follow="queue.enqueue(url, task_id='a')\n«queue.attempts()»\n«queue.tasks()»",
        then="len(it) == 1",
    ),
    Hint(
        hint="queue.tasks() shows them",
        before=REFUSED + PAUSED + "queue.enqueue(url)\n",
        mistake="lose('BatchCreateTasks')",
        follow="«queue.tasks()»",
        then="len(it) == 1",
    ),
    Hint(
        hint="queue.tasks() shows what is left; the same call again does no harm",
        before=REFUSED,
        mistake="lose('BatchDeleteTasks')",
        follow="«queue.tasks()»",
        then="it.empty",
    ),
    Hint(
        hint="check the network, HTTPS_PROXY and NO_PROXY; tasks.doctor() finds the cause",
        before="from google.auth.exceptions import TransportError\nfrom cloudtasks_nb.service.auth_errors import refresh_error\n",
        mistake="raise refresh_error(TransportError('no route'), None)",
        follow="«tasks.doctor()»",
        then="it['ok'].all()",
    ),
    Hint(
        hint="run: gcloud auth application-default login; then connect with new credentials: ct.connect(credentials=...)",
        before=ANONYMOUS
        + "from google.auth.exceptions import RefreshError\nfrom cloudtasks_nb.service.auth_errors import refresh_error\n",
        mistake="raise refresh_error(RefreshError('Reauthentication is needed'), AnonymousCredentials(), given=True)",
        follow="«ct.connect(credentials=»AnonymousCredentials()«)»",
        then="it.endpoint",
    ),
    Hint(
        hint='start it anew: multiprocessing.get_context("spawn"), or connect only after the fork',
        before="import multiprocessing\nfrom cloudtasks_nb.service import transport\n"
        "tasks.queues()\nmonkeypatch.setitem(transport._used_in, 'pid', 1)\n",
        mistake="tasks.queues()",
        follow="«multiprocessing.get_context(\"spawn\")»",
        then="it.get_start_method() == 'spawn'",
    ),
    Hint(
        hint='fork before the first use of the bucket, or start it anew: multiprocessing.get_context("spawn")',
        before="import multiprocessing\nfrom cloudtasks_nb.store import store\nmonkeypatch.setitem(store._used_in, 'pid', 1)\n",
        mistake="ct.local(store='gs://bucket').doctor()['fix']['store']",
        follow="«multiprocessing.get_context(\"spawn\")»",
        then="it.get_start_method() == 'spawn'",
    ),
    Hint(
        hint="import cloudtasks_nb as ct; tasks = ct.local(), or tasks = ct.connect(…)",
        before="from IPython.core.interactiveshell import InteractiveShell\nfrom cloudtasks_nb.magics import CloudTasksMagics\n"
        "from traitlets.config import Config\ntasks.close()\n"
        "shell = InteractiveShell(config=Config({'HistoryManager': {'enabled': False}}))\nmagics = CloudTasksMagics(shell)\n",
        mistake="magics.ct('queues')",
        follow="«import cloudtasks_nb as ct; tasks = ct.local()»\n«tasks = ct.connect(»'my-project'«)»\ntasks = ct.local()\n"
        "shell.user_ns['tasks'] = tasks\nmagics.ct('queues')",
        then="it.index.tolist() == ['reports']",
    ),
    Hint(
        hint='tasks.batch("a91f03c2") is one batch',
        before="from IPython.core.interactiveshell import InteractiveShell\nfrom cloudtasks_nb.magics import CloudTasksMagics\n"
        "from traitlets.config import Config\nqueue.pause().fan_out(df, url=url, name='a91f03c2')\n"
        "shell = InteractiveShell(config=Config({'HistoryManager': {'enabled': False}}), user_ns={'tasks': tasks})\n"
        "magics = CloudTasksMagics(shell)\n",
        mistake="magics.ct('batches a91f03c2')",
        follow="«tasks.batch(\"a91f03c2\")»",
        then="it.name == 'a91f03c2'",
    ),
    Hint(
        hint='tasks.queue("reports").panel() is the widget of one queue',
        before="from IPython.core.interactiveshell import InteractiveShell\nfrom cloudtasks_nb.magics import CloudTasksMagics\n"
        "from traitlets.config import Config\n"
        "shell = InteractiveShell(config=Config({'HistoryManager': {'enabled': False}}), user_ns={'tasks': tasks})\n"
        "magics = CloudTasksMagics(shell)\n",
        mistake="magics.ct('panel reports')",
        follow="panel = «tasks.queue(\"reports\").panel()»\npanel.close()",
    ),
    Hint(
        hint="§This is a function that waits for tasks of Google Cloud Tasks.\nIt answers § with its arguments as a JSON "
        "object, for example from: queue.enqueue(handler, {...})\n",
        before=SERVED + "import urllib.request\n",
        mistake="try:\n    urllib.request.urlopen(handler.url)\nexcept OSError as error:\n    print(error.read().decode())",
        follow="task = «queue.enqueue(handler, {»'day': '2013-01-01'«})»\nqueue.wait(task)",
        then="it['result'].tolist() == ['JFK on 2013-01-01']",
    ),
    Hint(
        hint="they reach that kernel; handler.close() there, then ct.serve here gets the old URL",
        before=SERVED + "from cloudtasks_nb.handlers import serving\nserving._served.clear()\n",
        mistake="other = ct.serve(report)",
        follow="«handler.close()»\nother.close()",
        then="ct.serve(report).url == handler.url",
    ),
)
CHECKS = (
    Hint(
        hint='tasks.queue("reports", create=True)',
        before="queue.delete(); tasks = ct.local()\n",
        mistake="print(tasks.doctor()['fix']['queues'])",
        follow="tasks.clock.advance('3d')\n«tasks.queue(\"reports\", create=True)»\ntasks.doctor()",
        then="it.detail['queues'] == '1 queue: reports'",
    ),
    Hint(
        hint='tasks.queue("reports").resume()',
        before=PAUSED,
        mistake="print(tasks.doctor()['fix']['queues'])",
        follow="«tasks.queue(\"reports\").resume()»\ntasks.doctor()",
        then="it['ok'].all()",
    ),
    Hint(
        hint='tasks.queue("reports").update(log_sampling_ratio=1.0)',
        before="queue.update(log_sampling_ratio=0)\n",
        mistake="print(tasks.doctor()['fix']['log'])",
        follow="«tasks.queue(\"reports\").update(log_sampling_ratio=1.0)»\ntasks.doctor()",
        then="it['ok'].all()",
    ),
    Hint(
        hint='service_account="NAME@local.iam.gserviceaccount.com" sends one',
        before="handler = ct.serve(report, service_account='NAME@local.iam.gserviceaccount.com')\n" + TELLING
        + "target.script(403)\n",
        mistake="print(tasks.doctor(target.url)['fix']['target'])",
        follow="tasks.doctor(target.url, «service_account=\"NAME@local.iam.gserviceaccount.com\"»)\n",
        then="[it['ok'].all(), target.__exit__()][0]",
    ),
    Hint(
        hint='audience="…", with the URL that gcloud run services describe SERVICE § shows, or that of handlers.app',
        before=TELLING + "target.script(401)\naccount = 'caller@local.iam.gserviceaccount.com'\n",
        mistake="print(tasks.doctor(target.url, service_account=account)['fix']['target'])",
        follow="tasks.doctor(target.url, service_account=account, «audience=\"»https://a.example\")\n",
        then="[it['ok'].all(), target.__exit__()][0]",
    ),
    Hint(
        hint='ct.connect(…, store="gs://team/tasks"), or the same store= in ct.deploy',
        before=SERVED + GCLOUD.replace('"https://report-abc123.a.run.app"', "handler.url")
        + "service = ct.deploy(report, run=True)\n",
        mistake="print(tasks.doctor(service)['fix']['store'])",
        follow="«ct.connect(»'my-project', 'us-central1', «store=\"gs://team/tasks\")»",
        then="it.queue('reports')",
    ),
    Hint(
        hint='ct.connect("my-project", …) or: gcloud config set project MY-PROJECT',
        before="from google.oauth2.credentials import Credentials\nmonkeypatch.setattr('google.auth.default', lambda **_: (Credentials('token'), None))\n"
        "monkeypatch.setenv('HTTPS_PROXY', 'http://127.0.0.1:9')\ntasks = ct.connect()\n",
        mistake="print(tasks.doctor()['fix']['project'])",
        follow="«ct.connect(\"my-project\", »'us-central1'«)»",
        then="it.queue('reports')",
    ),
    Hint(
        hint='tasks.queue("reports") shows what waits; try again later',
        before=TELLING + "target.script(target.hold())\nmonkeypatch.setattr('cloudtasks_nb.client.checks.target._PATIENCE', 0.0)\n",
        mistake="print(tasks.doctor(target.url)['fix']['target'])",
        follow="«tasks.queue(\"reports\")»._repr_mimebundle_()",
        then="[it, target.__exit__()][0]",
    ),
    Hint(
        hint='url="§" if that is right, and check that it can be reached',
        unfollowed="only the App Engine of Google follows a redirect, which fails in its network",
    ),
)
SHARED = (
    Hint(
        hint='others cannot see batch § yet: the bucket does not answer\n  → tasks.batch("§") writes it again',
        before="from cloudtasks_nb.errors import StoreError\nfrom cloudtasks_nb.fanout.batch import sharing\n"
        "def fail(*_):\n    raise StoreError('the bucket does not answer')\n"
        "write = sharing.write_batch\nmonkeypatch.setattr(sharing, 'write_batch', fail)\n"
        "handler = ct.serve(report, store='shared')\ntasks = ct.local(store='shared')\nqueue = tasks.queue('reports')\n",
        mistake="queue.fan_out(df, url=handler).wait()",
        follow="monkeypatch.setattr(sharing, 'write_batch', write)\n«tasks.batch(\"§\")»\n"
        "monkeypatch.setenv('CLOUDTASKS_NB_HOME', str(tmp_path / 'other'))\nct.local(store='shared').batches()",
        then="len(it) == 1",
    ),
    Hint(
        hint='tasks.batch("§").delete(others=True) deletes all of it; tasks.delete_batches("30d") deletes old batches of '
        "other homes here only",
        before="handler = ct.serve(report, store='shared')\ntasks = ct.local(store='shared')\n"
        "tasks.queue('reports').fan_out(df, url=handler, name='a').wait()\n"
        "monkeypatch.setenv('CLOUDTASKS_NB_HOME', str(tmp_path / 'other'))\ntasks = ct.local(store='shared')\n"
        "batch = tasks.batch('a')\n",
        mistake="batch.delete()",
        follow="«tasks.delete_batches(\"30d\")»\n«tasks.batch(\"§\").delete(others=True)»",
        then="tasks.batches().empty",
    ),
    Hint(
        hint="batch.delete() removes it; any new name sends all",
        before="handler = ct.serve(report, store='shared')\ntasks = ct.local(store='shared')\nqueue = tasks.queue('reports')\n"
        "batch = queue.fan_out(df, url=handler, name='a')\nbatch.wait()\n"
        "from pathlib import Path\nfrom cloudtasks_nb.fanout.batch import claims\n"
        "monkeypatch.setattr(claims, 'read_claim', lambda *_: b'damaged')\n"
        "monkeypatch.setenv('CLOUDTASKS_NB_HOME', str(tmp_path / 'other'))\ntasks = ct.local(store='shared')\n",
        mistake="batch = tasks.queue('reports').fan_out(df.assign(day='2014-01-01'), url=handler, name='a')\nbatch.wait()",
        follow="«batch.delete()»",
        then="tasks.batches().empty",
    ),
)

HINTS = ARGUMENTS + BATCHES + PLANS + CONNECTION + HANDLERS + GOOGLE_ITSELF + SERVICE + CHECKS + SHARED
