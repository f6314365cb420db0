"""The directive `cofm-command`: a command's page, made from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from cofm_triton.cli import parser_of


def usage(parser: argparse.ArgumentParser) -> nodes.literal_block:
    """How the command is called."""
    text = " ".join(parser.format_usage().removeprefix("usage: ").split())
    return nodes.literal_block(text, text, language="text")


def entries(parser: argparse.ArgumentParser) -> Iterator[nodes.definition_list_item]:
    """One for each argument: its names, and what it does."""
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        name = formatter._format_action_invocation(action)
        text = formatter._expand_help(action) if action.help else ""
        term = nodes.term("", "", nodes.literal(name, name))
        yield nodes.definition_list_item("", term, nodes.definition("", nodes.paragraph("", text)))


class Command(SphinxDirective):
    """Usage, and a list of all arguments."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes that stand in place of the directive."""
        parser = parser_of(self.arguments[0])
        return [usage(parser), nodes.definition_list("", *entries(parser))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the directive."""
    app.add_directive("cofm-command", Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
