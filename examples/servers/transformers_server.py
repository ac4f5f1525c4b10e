"""An OpenAI-compatible endpoint for a LLaVA-layout folder, on transformers: one chunk a token, as it is generated.

    python examples/servers/transformers_server.py MODEL --port 8080

The smallest server that the runtime ``server`` can be tried with, and a pattern for one of your own. As an entry of the
agent's ``servers.json``, with the whole path of this file::

    {"transformers": {"command": ["python", "transformers_server.py", "{model}", "--port", "{port}"]}}
"""

import argparse
import base64
import io
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

MOST_BYTES = 64 << 20  # of a request


class Model:
    """A loaded checkpoint; one answer at a time."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
        ).eval()
        self._processor: Any = transformers.AutoProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._lock = Lock()

    def answer(self, messages: list[dict[str, Any]], cap: int, send: Callable[[str], None]) -> tuple[int, int, bool]:
        """Generate greedily; ``send`` gets each token's text. Counts of prompt and answer, whether it has an end."""
        from PIL import Image

        turns, images = [], []
        for message in messages:
            parts = message["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
            images += [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB") for url in urls]
            texts = [part["text"] for part in parts if part["type"] == "text"]
            turns.append({"role": message["role"], "content": "\n".join(["<image>"] * len(urls) + texts)})
        with self._lock:
            tokenizer = self._processor.tokenizer
            text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            inputs = self._processor(images=images or None, text=text, add_special_tokens=False, return_tensors="pt")
            reader = Reader(tokenizer, send)
            self._model.generate(**inputs, max_new_tokens=cap, do_sample=False, streamer=reader)
        ends = self._model.generation_config.eos_token_id
        ended = reader.tokens[-1] in (ends if isinstance(ends, list) else [ends])
        return inputs["input_ids"].shape[1], len(reader.tokens), ended


class Reader:
    """What transformers calls a streamer: it is put the prompt, then each token."""

    def __init__(self, tokenizer: Any, send: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._send = send
        self._sent = ""
        self._prompted = False
        self.tokens: list[int] = []

    def put(self, value: Any) -> None:
        if not self._prompted:
            self._prompted = True
            return
        self.tokens += value.flatten().tolist()
        text = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        if not text.endswith("�"):  # else the token is a part of a character
            self._send(text[len(self._sent) :])
            self._sent = text

    def end(self) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    """``GET /health`` and ``POST /v1/chat/completions``, streamed only."""

    protocol_version = "HTTP/1.1"
    model: Model

    def do_GET(self) -> None:
        self._reply(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        if self.path != "/v1/chat/completions" or not 0 < length <= MOST_BYTES:
            self._reply(404, {"error": {"message": f"{self.path} is not served"}})
            return
        asked = json.loads(self.rfile.read(length))
        if not asked.get("stream"):
            self._reply(400, {"error": {"message": "only stream: true is served"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        read, made, ended = self.model.answer(asked["messages"], int(asked["max_tokens"]), self._text)
        self._chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop" if ended else "length"}]})
        if (asked.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
            self._chunk({"choices": [], "usage": usage})
        self._event(b"[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _text(self, text: str) -> None:
        if text:
            self._chunk({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

    def _chunk(self, body: dict[str, Any]) -> None:
        self._event(json.dumps({"object": "chat.completion.chunk", **body}).encode())

    def _event(self, data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """Load, then listen: whoever gets an answer from ``/health`` may ask."""
    parser = argparse.ArgumentParser(description="Serve a LLaVA-layout folder on 127.0.0.1.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    Handler.model = Model(options.model, options.threads)
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
