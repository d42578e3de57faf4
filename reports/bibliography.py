"""Where quoted figures were published: entries for BibTeX, and the same as a list for the document of all tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from reports.latex_text import Latex, latex_escape
from reports.published import Published


class Reference(NamedTuple):
    """One publication."""

    key: str
    title: str
    url: str


def references_of(files: Iterable[Published]) -> list[Reference]:
    """The publications that files of published numbers quote, by key; of several texts of one the first title."""
    found: dict[str, Reference] = {}
    for source in (source for file in files for source in file.sources.values()):
        title = source.text.partition(", ")[0]
        known = found.setdefault(source.cite, Reference(source.cite, title, source.url))
        if not known.url and source.url:
            found[source.cite] = known._replace(url=source.url)
    return [found[key] for key in sorted(found)]


def render_bibliography(references: Iterable[Reference]) -> str:
    """A `.bib` file; what a footnote says of a source is its title, to be completed by hand where a paper cites it."""
    head = '% Sources of the published figures, written by "harness report"; changes made here are lost. Needs url.\n'
    return head + "".join(
        f"@misc{{{one.key},\n  key = {{{one.key}}},\n  title = {{{{{latex_escape(one.title)}}}}},\n"
        + (f"  howpublished = {{\\url{{{one.url}}}}},\n" if one.url else "")
        + "}\n"
        for one in references
    )


def listed(references: Iterable[Reference]) -> list[Latex]:
    """One line each, for a document that runs without BibTeX."""
    return [
        Latex(
            rf"[\texttt{{\detokenize{{{one.key}}}}}] {latex_escape(one.title)}."
            + (rf" \texttt{{\detokenize{{{one.url}}}}}" if one.url else "")
        )
        for one in references
    ]
