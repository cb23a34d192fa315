"""Formats the help of commands for the width of the terminal."""

from __future__ import annotations

import argparse
import re
import textwrap

_HEAD = r" +(?:- |\S+(?: \S+)* {2,})"  # the mark or the first column of an item


class HelpFormatter(argparse.HelpFormatter):
    """Fills each paragraph and each item of an indented list, and breaks no name at its hyphens."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = text.strip("\n").split("\n\n")
        return "\n\n".join("\n".join(_filled(part, width, indent) for part in _parts(block)) for block in blocks)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def _parts(block: str) -> list[str]:
    """Split a block into what is filled by itself: the whole of a paragraph, or the items of a list."""
    lines = block.splitlines()
    indent = _indent(lines[0])
    if not indent:
        return [block]
    parts: list[str] = []
    for line in lines:
        if _indent(line) > indent and parts:
            parts[-1] += f" {line.strip()}"
        else:
            parts.append(line)
    return parts


def _filled(part: str, width: int, indent: str) -> str:
    found = re.match(_HEAD, part)
    head = found.group() if found else " " * _indent(part)
    return textwrap.fill(
        " ".join(part[len(head) :].split()),
        width,
        initial_indent=indent + head,
        subsequent_indent=indent + " " * len(head),
        break_on_hyphens=False,
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
