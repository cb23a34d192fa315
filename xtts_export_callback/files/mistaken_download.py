"""Recognises what a download leaves in place of the file itself: a web page, or the pointer of Git LFS."""

from __future__ import annotations

import re

_PAGE = rb"(?is)\s*(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype html|html|head|\?xml)"
_POINTER = b"version https://git-lfs"  # github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_SIZE = rb"\nsize (\d{1,15})\n"


def mistaken_download(head: bytes) -> str:
    """Say what a file is in place of the one that was meant, and how to get that; empty for anything else.

    Args:
        head: Its first few hundred bytes.
    """
    if head.startswith(_POINTER):
        size = re.search(_SIZE, head)
        of = f" of the file of {int(size[1]):,} bytes" if size else ""
        return f"is a Git LFS pointer{of}, not the file itself; fetch that with git lfs pull, or download it"
    if re.match(_PAGE, head):
        return (
            "is a web page (HTML), not the file itself; use the page's download link (on huggingface.co the address "
            "has /resolve/ in place of /blob/)"
        )
    return ""
