"""Writes zip archives: stored members, fixed dates and attributes, so that equal contents give equal bytes on every machine.

Nothing is deflated: zlib's output differs between its versions and forks. Specification: APPNOTE 6.3.10, as in zip_archive.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable

from exporter.errors import OutputError, printable

FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date that the format allows (4.4.6)
UNIX, REGULAR = 3, 0o100644
MAX_NAME_LENGTH = 0xFFFF


def stored_zip(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A zip archive of (name, content) pairs in their order.

    Raises: OutputError for a name that a zip archive cannot contain unchanged.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            if "\0" in name or len(name.encode()) > MAX_NAME_LENGTH:
                raise OutputError(f"a zip archive cannot contain the name {printable(name, 80)!r}", hint="write .json instead")
            member = zipfile.ZipInfo(name, FIRST_DATE)
            member.create_system, member.external_attr = UNIX, REGULAR << 16
            archive.writestr(member, content)
    return target.getvalue()
