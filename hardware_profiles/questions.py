"""From what is asked to what a model is shown: the one place where a bundle's prompt becomes a question."""

from collections.abc import Mapping
from pathlib import Path

from hardware_profiles.messages import Request
from hardware_profiles.runtimes import Example, Question, Retrieve
from spaces.errors import BadInput
from spaces.exemplars import FOLDER, Row, Vectors, pixel_digest, read_pool
from spaces.images import Pixels, read_image
from spaces.prompting import Prompt, exemplar_group, in_order, render


class Asker:
    """Makes questions as a bundle's prompt wants them asked. The images of fixed exemplars are read once."""

    def __init__(self, folder: Path, prompt: Prompt) -> None:
        """Reads the bundle's exemplars, where its prompt shows some.

        Raises:
            BadInput: they are not what the prompt needs.
        """
        self._prompt = prompt
        self._folder = folder
        self._fixed: dict[str, tuple[Example, ...]] = {}
        if not prompt.exemplars:
            return
        self._nearest = prompt.exemplar_choice == "nearest"
        self._pool = read_pool(folder / FOLDER, nearest=self._nearest)
        for group in self._pool.groups:
            if len(self._pool.first(group, prompt.exemplars)) < prompt.exemplars:
                raise BadInput(
                    f"{folder / FOLDER} has fewer than {prompt.exemplars} exemplars for {group!r}; export it again."
                )

    def question(self, request: Request) -> Question:
        """The request with its image read, its prompt rendered, and what is shown before it.

        Raises:
            BadInput: an image cannot be read, or there are no exemplars for what the request's field says.
        """
        fields = {str(name): str(value) for name, value in request.fields.items()}
        image = read_image(Path(request.image))
        prompt = render(self._prompt, request.question, {} if request.plain else fields)
        if request.plain or not self._prompt.exemplars:
            return Question(id=request.id, image_HWC=image, prompt=prompt)
        group = self._group(fields)
        if self._nearest:
            return Question(id=request.id, image_HWC=image, prompt=prompt, retrieve=self._retrieve(group))
        if group not in self._fixed:
            rows = in_order(self._prompt, self._pool.first(group, self._prompt.exemplars))
            self._fixed[group] = tuple(map(self._example, rows))
        return Question(id=request.id, image_HWC=image, prompt=prompt, examples=self._fixed[group])

    def _group(self, fields: Mapping[str, str]) -> str:
        group = exemplar_group(self._prompt, fields)
        groups = self._pool.groups
        if group in groups:
            return group
        name = self._prompt.exemplar_field
        wrong = f"has no exemplars for {name}={fields[name]}" if name in fields else f"picks exemplars by {name!r}"
        raise BadInput(f"{self._folder} {wrong}; give --field {name}=VALUE, one of {', '.join(groups)}.")

    def _retrieve(self, group: str) -> Retrieve:
        """Images of the nearest rows are read when they are asked for: the pool may be larger than memory allows."""
        count = self._prompt.exemplars

        def retrieve(image_HWC: Pixels, tokens_VD: Vectors) -> tuple[Example, ...]:
            rows = self._pool.nearest(group, count, tokens_VD, pixel_digest(image_HWC))
            return tuple(map(self._example, in_order(self._prompt, rows)))

        return retrieve

    def _example(self, row: Row) -> Example:
        return Example(
            image_HWC=read_image(self._pool.folder / row.image),
            prompt=render(self._prompt, row.question, row.fields),
            answer=row.answer,
        )
