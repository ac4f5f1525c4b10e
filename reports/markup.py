"""HTML elements with everything escaped that was not made here."""

import html


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
