"""Case 25: no token or one, an empty image, generation without end: null metrics or a typed fault; caps hold."""

from pathlib import Path

import pytest

from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.runner import check_sanity
from hardware_profiles.agent.sensors import Sensors
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.bundle import Execution, seal
from hardware_profiles.messages import Job, JobFailed, Request, Timing
from objectives.latency import latency_figures
from spaces.prompting import Prompt
from tests.boards import Board, script


@pytest.mark.parametrize("tokens", [0, 1])
def test_case_25_no_token_or_one_has_no_time_between_tokens(
    timed_job: Job, board: Board, short_waits: None, tokens: int
) -> None:
    result = measure(timed_job, command=script(f"begin(); work(tokens={tokens})"), sensors=Sensors(board("pi4")))
    figures = latency_figures(result)
    assert figures["token_p50_ms"].value is None
    assert (figures["ttft_p50_ms"].value is None) == (tokens == 0)
    assert figures["latency_p50_ms"].value == pytest.approx(10.05)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n"])
def test_case_25_an_empty_image_is_invalid_input(tiny_openvino: Path, tmp_path: Path, content: bytes) -> None:
    import shutil

    image, folder = tmp_path / "empty.png", tmp_path / "bundle"
    image.write_bytes(content)
    shutil.copytree(tiny_openvino, folder)
    prompt = Prompt(template="{question}")
    seal(
        folder, runtime="openvino", prompt=prompt, max_new_tokens=4, execution=Execution(), candidate={}, provenance={}
    )
    requests = (Request(id="0", image=str(image), question="what ?"),)
    with pytest.raises(JobFailed, match=r"INVALID_INPUT: .*empty\.png"):
        run_job(Job(kind="measure", bundle=str(folder), requests=requests))


def test_case_25_answers_over_the_token_cap_are_a_fault() -> None:
    one = Timing(
        id="x",
        text="on and on",
        preprocess_ms=None,
        vision_ms=None,
        prefill_ms=None,
        ttft_ms=1.0,
        e2e_ms=9.0,
        token_ms=tuple(map(float, range(1, 10))),
    )
    with pytest.raises(OverflowError, match="9 tokens, over the manifest's cap of 8"):
        check_sanity([one], 8)


def test_case_25_generation_without_end_meets_the_time_cap(timed_job: Job) -> None:
    from dataclasses import replace

    limits = {"load": 0.3, "warmup": 0.1, "work": 0.3}
    hasty = replace(timed_job, deadline_s=limits, answer_s=0.002)
    endless = "begin(); say('phase', phase='work')\nwhile True: say('tick'); time.sleep(0.05)"
    with pytest.raises(JobFailed, match="TIMEOUT: work went on"):
        run_job(hasty, command=script(endless))
