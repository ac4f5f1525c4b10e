"""What a task gives away without looking: the commonest answer, and the best model shown a blank image."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from PIL import Image

from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.messages import Answered, Job, Request
from objectives.accuracy import accuracy, accuracy_slices
from objectives.metrics import commonest_answers
from objectives.records import Baseline
from objectives.run import RunFolder
from objectives.task import Task
from search.scoring import requests, score
from spaces.images import read_image
from spaces.sample import Sample

_GREY = (127, 127, 127)


def commonest_answer(task: Task, items: Sequence[Sample]) -> Baseline:
    """Always the commonest answer: for each value of the hint field where the task has one, else for each question."""
    texts = commonest_answers(items, items, task.hint_field)
    scores = [task.score(text, item) for text, item in zip(texts, items, strict=True)]
    per = f"each {task.hint_field}" if task.hint_field else "each question"
    return Baseline(
        name="commonest_answer",
        explained=f"Always the commonest answer to {per} in the search split itself.",
        accuracy=accuracy(scores),
        slices=accuracy_slices(items, scores, task.slices),
    )


def blank_image(run: RunFolder, number: int, task: Task, items: Sequence[Sample], cancel: Event) -> Baseline:
    """The most accurate trial's bundle, asked the same questions about an even grey image of the same size."""
    with TemporaryDirectory() as folder:
        blanks: dict[tuple[int, int], Path] = {}
        asked: list[Request] = []
        for request in requests(items):
            height, width, _ = read_image(Path(request.image)).shape
            size = width, height
            if size not in blanks:
                blanks[size] = Path(folder) / f"{size[0]}x{size[1]}.png"
                Image.new("RGB", size, _GREY).save(blanks[size])
            asked.append(
                Request(id=request.id, image=str(blanks[size]), question=request.question, fields=request.fields)
            )
        result = run_job(Job(kind="answer", bundle=str(run.bundle(number)), requests=tuple(asked)), cancel=cancel)
    assert isinstance(result, Answered)
    scores = [answer.score for answer in score(result, items, task)]
    return Baseline(
        name="blank_image",
        explained=f"Trial {number}, the most accurate one, asked the same questions about an even grey image.",
        accuracy=accuracy(scores),
        slices=accuracy_slices(items, scores, task.slices),
    )
