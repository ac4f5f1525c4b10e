"""The runtime ``server``: an OpenAI-compatible endpoint started as the device's owner wrote, timed by its stream.

llama.cpp's ``llama-server``, vLLM and the like. The bundle names the server (``runtime.server``); how it is started is
the device's alone (:mod:`hardware_profiles.agent.servers`). Nothing of its arithmetic is pinned or proven: precision,
threads, KV cache and chat template are the server's own, and the bundle says so (``execution``: ``own``).

What the times are: from the decoded image and the rendered prompt, over encoding it as PNG and the request on loopback,
to each chunk as it is read. A chunk is not always a token: the tokens are counted by the server's ``usage``, and those
that the chunks do not tell apart have the time by which they had come at the latest.
"""

import base64
import http.client
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hardware_profiles.agent.servers import find_server
from hardware_profiles.bundle import Bundle
from hardware_profiles.messages import Answer, JobFailed, Timing
from hardware_profiles.runtimes import Question
from hardware_profiles.runtimes.server_process import HOST, ServerProcess
from hardware_profiles.runtimes.server_stream import Refused, Streamed, requested, stream
from spaces.errors import BadInput
from spaces.serving import SERVER

SILENCE_S = 600.0  # of a server that was asked
CHUNKS_A_TOKEN, OTHER_CHUNKS = 8, 64  # of one answer at most: a server that goes on without end is stopped
_LAST_WORDS_S = 1.0  # that a server whose connection broke is given to end
_COMPRESSION = 1  # of the PNG: on loopback, bytes are cheaper than the time to save them


class ServerRuntime:
    """Loads a bundle by starting the server that it names on it."""

    name = SERVER
    capabilities: Mapping[str, tuple[Any, ...]] = {
        "quantization.weights": ("fp16",),
        "quantization.vision": ("fp16",),
        "quantization.projector": ("fp16",),
        "visual_tokens.keep": (1.0,),
        "prompt.exemplar_choice": ("fixed", "random"),
    }

    def prepare(self) -> None:
        """There is nothing to import: the engine lives in the server's processes."""

    def load(self, bundle: Bundle) -> "ServerSession":
        gguf = any(bundle.folder.glob("*.gguf"))
        if not gguf and not (bundle.folder / "config.json").is_file():
            raise BadInput(
                f"{bundle.folder / 'config.json'} is missing, and there is no GGUF; a server needs one or the other."
            )
        return ServerSession(bundle)


class ServerSession:
    """A running server with the bundle loaded. Its processes are ended with this object, or with this process."""

    def __init__(self, bundle: Bundle) -> None:
        self._server = find_server(bundle.manifest.execution.server)
        self._cap = bundle.manifest.max_new_tokens
        self._process = ServerProcess(self._server, bundle.folder)
        self._version = ""
        self._counts: dict[str, int] = defaultdict(int)
        self._said: dict[str, list[float]] = defaultdict(list)

    @property
    def properties(self) -> dict[str, str]:
        """What is known of the server, how tokens were counted, and the medians of what it said of its own times."""
        own = "the server's own; nothing is pinned or checked"
        found = {
            "server": self._server.name,
            "execution": own,
            "memory": f"VmHWM, the sum over the server's {self._process.members()} processes; shared pages in each",
        }
        if self._version:
            found["server.version"] = self._version
        if self._counts:
            found["tokens"] = "; ".join(f"{how}: {count} answers" for how, count in sorted(self._counts.items()))
        for name, values in sorted(self._said.items()):
            found[f"server.{name}"] = f"{statistics.median(values):g} (median of {len(values)} answers)"
        return found

    def memory_peak_bytes(self) -> int:
        """The most that the server's processes ever held, together; see `ServerProcess.memory_peak_bytes`."""
        return self._process.memory_peak_bytes()

    def answer(self, question: Question) -> Timing:
        """See ``Session.answer``. Vision and prefill are null: a server's stream does not tell them apart."""
        start = time.perf_counter()
        body = requested(self._server.model, messages(question), self._cap, self._server.request)
        ready = time.perf_counter()
        answered = self._ask(body)
        ended = time.perf_counter()
        stamps, how = token_stamps(answered)
        if len(stamps) > self._cap:
            raise BadInput(
                f"the server {self._server.name!r} answered with {len(stamps)} tokens where at most {self._cap} were "
                "asked for; it cannot be compared with runtimes that keep to max_tokens."
            )
        self._counts[how] += 1
        self._version = answered.version or self._version
        for name, value in _numbers(answered):
            self._said[name].append(value)
        return Timing(
            id=question.id,
            text=answered.text.strip(),
            preprocess_ms=(ready - start) * 1e3,
            vision_ms=None,
            prefill_ms=None,
            ttft_ms=(stamps[0] - start) * 1e3,
            e2e_ms=(ended - start) * 1e3,
            token_ms=tuple((stamp - start) * 1e3 for stamp in stamps),
        )

    def answer_many(self, questions: Sequence[Question]) -> list[Answer]:
        """See ``Session.answer_many``: one after another, so that what batches would do to answers cannot differ."""
        timings = [self.answer(question) for question in questions]
        return [Answer(id=timing.id, text=timing.text, tokens=len(timing.token_ms)) for timing in timings]

    def _ask(self, body: bytes) -> Streamed:
        try:
            most = CHUNKS_A_TOKEN * self._cap + OTHER_CHUNKS
            return stream(HOST, self._process.port, body, timeout_s=SILENCE_S, most=most)
        except Refused as error:
            self._process.check(_LAST_WORDS_S if error.status >= http.client.INTERNAL_SERVER_ERROR else 0.0)
            reason = f"the server {self._server.name!r} refused a question ({error})"
            if error.status < http.client.INTERNAL_SERVER_ERROR:
                raise BadInput(f"{reason}.") from error
            raise JobFailed("CRASH", reason) from error
        except TimeoutError as error:
            reason = f"the server {self._server.name!r} was silent for {SILENCE_S:g} s"
            raise JobFailed("TIMEOUT", reason) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._process.check(_LAST_WORDS_S)
            what = "ended its answer too soon" if isinstance(error, http.client.IncompleteRead) else str(error)
            raise JobFailed("CRASH", f"the server {self._server.name!r}: {what or type(error).__name__}") from error


def token_stamps(answered: Streamed) -> tuple[list[float], str]:
    """When each generated token had come, and in words how that is known.

    Usually a chunk is a token, and the end token comes with the chunk that gives the reason to end. Where ``usage``
    counts more tokens than that, which chunk they came in is not known: they get the stamp of the last one.
    """
    chunks = answered.stamps
    assert answered.finished is not None
    ended = answered.finished
    count = answered.usage.get("completion_tokens")
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        return chunks or [ended], "counted by chunks, since the server reports no usage"
    if not chunks:
        return [ended] * max(1, count), "counted by usage, none with text"
    if count == len(chunks):
        return chunks, "counted by usage, one a chunk"
    if count == len(chunks) + 1 and answered.reason == "stop":
        return [*chunks, ended], "counted by usage, one a chunk and the end token"
    if count < len(chunks):
        return chunks[: max(1, count)], "counted by usage, fewer than chunks"
    return [*chunks, *[chunks[-1]] * (count - len(chunks))], "counted by usage, more than chunks"


def messages(question: Question) -> list[dict[str, Any]]:
    """The chat as an OpenAI client sends it: every image before the text of its turn, as a ``data:`` URL."""
    if question.retrieve:
        raise BadInput("a server finds no nearest exemplars; use the openvino runtime for this bundle.")
    made: list[dict[str, Any]] = []
    for example in question.examples:
        made += [_turn(example.image_HWC, example.prompt), {"role": "assistant", "content": example.answer}]
    return [*made, _turn(question.image_HWC, question.prompt)]


def _turn(image_HWC: npt.NDArray[np.uint8], prompt: str) -> dict[str, Any]:
    """PNG keeps every pixel as it was decoded here, so that a server sees what other runtimes see."""
    coded = io.BytesIO()
    Image.fromarray(image_HWC).save(coded, "PNG", compress_level=_COMPRESSION)
    url = "data:image/png;base64," + base64.b64encode(coded.getvalue()).decode("ascii")
    return {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}],
    }


def _numbers(answered: Streamed) -> list[tuple[str, float]]:
    """What the server says of one answer in numbers: llama.cpp's timings, and tokens that came from its cache."""
    said = {f"timings.{name}": value for name, value in answered.timings.items()}
    said["usage.prompt_tokens"] = answered.usage.get("prompt_tokens")
    details = answered.usage.get("prompt_tokens_details") or {}
    said["usage.cached_tokens"] = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return [
        (name, float(value))
        for name, value in said.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
