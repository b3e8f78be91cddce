"""An interpreter of the part of Go's text/template that Modelfiles use here, and what Ollama gives to a template.

Written from the documentation of text/template: literal text, `{{-` and `-}}` which trim neighbouring text, `if`, `else if`,
`else`, `range`, `end`, fields, strings, `not` and `eq`. tests/export/gguf/render.go runs the same templates in Go itself.
"""

import json
import re

ACTION = re.compile(r"\{\{(- )?\s*((?:\"(?:\\.|[^\"\\])*\"|[^\"])*?)\s*( -)?\}\}", re.DOTALL)
WORD = re.compile(r'"(?:\\.|[^"\\])*"|\S+')


def ollama(template: str, messages: list[dict]) -> str:
    """The prompt that Ollama makes of messages."""
    return render(template, variables(messages))


def variables(messages: list[dict]) -> dict:
    """What Ollama gives to a template: all system messages are in `.System`, too."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    found = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    return {"System": system, "Messages": found}


def render(template: str, data: dict) -> str:
    pieces, rest = _pieces(template), []
    output = _block(iter(pieces), data, rest)
    assert not rest, f"a stray {rest}"
    return output


def _pieces(template: str) -> list[tuple[str, str]]:
    pieces, place, trims = [], 0, False
    for action in ACTION.finditer(template):
        text = template[place : action.start()]
        text = text.lstrip() if trims else text
        pieces.append(("text", text.rstrip() if action[1] else text))
        pieces.append(("action", action[2]))
        place, trims = action.end(), bool(action[3])
    tail = template[place:]
    assert "{{" not in tail
    return [*pieces, ("text", tail.lstrip() if trims else tail)]


def _block(pieces, dot, ended: list, *, writes: bool = True) -> str:
    """The output until `end` or `else`, which is left in `ended`."""
    output = []
    for kind, content in pieces:
        word = content.split(None, 1)[0] if kind == "action" else ""
        if kind == "text":
            output.append(content)
        elif word in ("end", "else"):
            ended.append(content)
            break
        elif word == "if":
            output.append(_if(content.removeprefix("if"), pieces, dot, writes))
        elif word == "range":
            inside = []
            for each in pieces:
                inside.append(each)
                depth = sum(_opens(*piece) for piece in inside)
                if depth < 0:
                    break
            items = _value(content.removeprefix("range"), dot) if writes else []
            output += [_block(iter(inside), item, []) for item in items]
        elif writes:
            output.append(_value(content, dot))
    return "".join(output) if writes else ""


def _opens(kind: str, content: str) -> int:
    word = content.split(None, 1)[0] if kind == "action" else ""
    return {"if": 1, "range": 1, "end": -1}.get(word, 0)


def _if(condition: str, pieces, dot, writes: bool) -> str:
    output, is_done = "", not writes
    while True:
        holds = not is_done and bool(_value(condition, dot))
        ended = []
        output += _block(pieces, dot, ended, writes=holds)
        is_done = is_done or holds
        if ended[0] == "end":
            return output
        condition = ended[0].removeprefix("else").strip().removeprefix("if") or '"otherwise"'


def _value(expression: str, dot):
    words = WORD.findall(expression)
    if words[0] == "not":
        return not _value(" ".join(words[1:]), dot)
    if words[0] == "eq":
        return _value(words[1], dot) == _value(words[2], dot)
    [word] = words
    return json.loads(word) if word.startswith('"') else dot[word.removeprefix(".")]
