"""Read ms-swift data: a conversation that ends with the better response, and the worse response or its whole conversation.

`rejected_response` is text or messages, `rejected_messages` a conversation. The conversation is `messages`, or the older `system`,
`history`, `query` and `response`.
"""

from __future__ import annotations

from trl_ext.data.formats.history import earlier_turns
from trl_ext.data.formats.match import Match
from trl_ext.data.formats.messages import Message, as_messages
from trl_ext.data.formats.row_outcome import Drop, Note, Reason
from trl_ext.data.formats.sample import Row, Sample
from trl_ext.data.formats.sharegpt import CONVERSATION

NAME = "swift"
TITLE = "ms-swift conversations"
NEEDS = "messages (or query and response) with rejected_response, or messages with rejected_messages"

REJECTED = ("rejected_response", "rejected_messages")
QUERY = ("query", "response")
READ = (*CONVERSATION, *QUERY, "system", "history", *REJECTED)


def match(sample: Sample) -> Match | None:
    rejected = next((name for name in REJECTED if sample.kind(name) in ("text", "messages")), None)
    if rejected is None or sample.has("chosen") or sample.has("rejected"):
        return None
    conversation = next((name for name in CONVERSATION if sample.kind(name) == "messages"), None)
    if conversation is None and not sample.kind("query") == sample.kind("response") == "text":
        return None
    beside = [name for name in ("system", "history") if sample.kind(name) is not None]
    columns = (conversation, *beside) if conversation is not None else (*beside, *QUERY)
    return Match(
        format=NAME,
        title=TITLE,
        read=_read,
        columns=(*columns, rejected),
        paired=True,
        conversational=True,
    )


def _read(row: Row, notes: set[Note]) -> Row:
    *prompt, chosen = _conversation(row, notes)
    rejected = next((row[name] for name in REJECTED if row.get(name) is not None), None)
    if rejected is None:
        raise Drop(Reason.NULL)
    if not prompt:
        raise Drop(Reason.NO_PROMPT)
    worse = as_messages(rejected, "assistant", notes)
    if worse[0]["role"] != "assistant":
        return {"chosen": [*prompt, chosen], "rejected": _with_system(row, worse)}
    return {"prompt": prompt, "chosen": [chosen], "rejected": worse}


def _conversation(row: Row, notes: set[Note]) -> list[Message]:
    whole = next((row[name] for name in CONVERSATION if row.get(name) is not None), None)
    if whole is not None:
        return _with_system(row, as_messages(whole, "user", notes))
    query, response = (row.get(name) for name in QUERY)
    if query is None or response is None:
        raise Drop(Reason.NULL)
    turns = [*earlier_turns(row.get("history"), notes), *as_messages(query, "user", notes)]
    return _with_system(row, [*turns, *as_messages(response, "assistant", notes)])


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    system = row.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages
