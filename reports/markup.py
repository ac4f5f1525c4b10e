"""HTML elements with everything escaped that was not made here."""

import html
from collections.abc import Sequence


class Html(str):
    """Text that is HTML already; any other text is escaped when it is put into an element."""

    __slots__ = ()


def element(name: str, /, *children: object, **attributes: object) -> Html:
    """One element. Children and attribute values are escaped unless they are :class:`Html`; null ones are left out.

    Attribute names lose a trailing underscore, and others become hyphens: ``class_``, ``data_v``. True gives an
    attribute without a value, false and null none.
    """
    words = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(attribute)
        elif value is not None and value is not False:
            words.append(f'{attribute}="{html.escape(str(value))}"')
    opening = f"<{' '.join(words)}>"
    if name in ("br", "input", "meta"):
        return Html(opening)
    return Html(f"{opening}{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Children after each other, escaped unless they are :class:`Html`; null ones are left out."""
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(str(child)) for child in children if child is not None
        )
    )


def card(title: str, note: str | Html | None, *content: Html) -> Html:
    """A section of the page: its title, a note in small print, and what it holds."""
    return element(
        "section", element("h2", title), element("p", note, class_="note") if note else None, *content, class_="card"
    )


def table(heads: Sequence[Html | None], rows: Sequence[Html], class_: str) -> Html:
    """A table that scrolls where it is wider than the page; ``sortable`` is a class that the page's script knows."""
    above = element("thead", element("tr", *heads))
    return element("div", element("table", above, element("tbody", *rows), class_=class_), class_="wrap")


def head(text: str, below: str = "", *, num: bool = True, sort: bool = True, title: str | None = None) -> Html:
    """A column's head: ``below`` in small print; ``num`` for numbers; ``sort`` makes it a button that sorts."""
    words = join(text, element("small", below) if below else None)
    content = element("button", words, type_="button") if sort else words
    return element("th", content, class_="num" if num else None, scope="col", title=title)
