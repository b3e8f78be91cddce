"""An OpenAI-compatible API on the loopback whose answers tests decide, and which counts what it is asked."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

PROBE = "Reply with the word yes."
MODEL = "judge-1"


class Answer(NamedTuple):
    """One response. A `dict` as body is sent as JSON, a text as it is."""

    body: dict | str
    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    seconds: float = 0.0


def says(words: str | None, finish_reason: str = "stop", seconds: float = 0.0, usage: dict | None = None) -> Answer:
    """A chat completion with these words, which used 100 prompt tokens and 10 completion tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": words}, "finish_reason": finish_reason}
    tokens = {"prompt_tokens": 100, "completion_tokens": 10} if usage is None else usage
    return Answer({"id": "1", "object": "chat.completion", "choices": [choice], "usage": tokens}, seconds=seconds)


def fails(status: int, message: str = "no", headers: dict[str, str] | None = None) -> Answer:
    return Answer({"error": {"message": message, "code": None}}, status, headers or {})


class Stub:
    """What the server was asked.

    Attributes:
        respond: Called with the body of each request for a completion, the one of `check` included.
        asked: Texts of the questions, without the requests of `check`, retries included.
        bodies, keys, times: Of all requests for a completion.
        most: Largest number of requests at a time.
    """

    def __init__(self, respond: Callable[[dict], Answer]) -> None:
        self.respond = respond
        self.asked: list[str] = []
        self.bodies: list[dict] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.models = [MODEL]
        self.most = self._now = 0
        self.lock = threading.Lock()
        self.url = ""

    def complete(self, body: dict, key: str) -> Answer:
        text = body["messages"][0]["content"]
        with self.lock:
            self.bodies.append(body)
            self.keys.append(key)
            self.times.append(time.monotonic())
            if text != PROBE:
                self.asked.append(text)
            self._now += 1
            self.most = max(self.most, self._now)
        answer = self.respond(body)
        time.sleep(answer.seconds)
        with self.lock:
            self._now -= 1
        return answer


@contextmanager
def serving(respond: Callable[[dict], Answer]):
    """A running stub server; `.url` is its base URL."""
    stub = Stub(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                self.send(Answer("<html>404 page not found</html>", 404))
            else:
                self.send(stub.complete(body, self.headers.get("Authorization", "")))

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in stub.models]}
            self.send(Answer(listed) if self.path == "/v1/models" else Answer("404 page not found", 404))

        def send(self, answer: Answer) -> None:
            is_json = isinstance(answer.body, dict)
            content = (json.dumps(answer.body) if is_json else answer.body).encode()
            try:
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json" if is_json else "text/html")
                self.send_header("Content-Length", str(len(content)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the client gave up

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that was killed resets its connections."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
