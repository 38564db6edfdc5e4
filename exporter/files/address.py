"""Parses URLs: which part is the path, and what surrounds it.

An fsspec chain ("zip://a.keras::https://host/zoo.zip", "simplecache::s3://bucket/a.h5") has its path in the first link with "://".
"""

from __future__ import annotations

import os
import posixpath
import re
import urllib.parse

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(?:://|::)")  # two letters or more: C:\\ is a drive
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
MISTYPED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")
LINK = "::"
STORES = ("abfs", "abfss", "adl", "az", "file", "gcs", "gs", "hdfs", "hf", "local", "memory", "oss", "s3", "s3a", "tar", "zip")
ESCAPED = re.compile(r"%(?![0-9A-Fa-f]{2})")
WITHOUT_USERS = ("abfs", "abfss", "adl", "github", "hf")  # the part before "@" is a container or a repository
IN_URLS = ":/?#[]@!$&'()*+,;=%-._~"  # RFC 3986


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is for fsspec rather than the local file system."""
    return URL.match(os.fspath(path)) is not None


def without_file_scheme(path: str | os.PathLike[str]) -> str:
    """The path of a file:// address; anything else unchanged. Such a path may contain wildcards, and "%20" stands for a blank."""
    text = os.fspath(path)
    if not text.lower().startswith("file://") or LINK in text:
        return text
    from urllib.request import url2pathname

    return url2pathname("/" + text[len("file://"):].partition("/")[2])


def is_mistyped(path: str) -> bool:
    """Whether `path` is a malformed URL ("https:/host/..."), and no such file exists."""
    return MISTYPED.match(path) is not None and not os.path.lexists(path)


def is_web(url: str) -> bool:
    """Whether `url` is an http address: only those have queries and percent-encoded names."""
    return re.match("https?://", split(url)[0].rpartition(LINK)[2], re.IGNORECASE) is not None


def split(url: str) -> tuple[str, str]:
    """An address up to the end of its path, and the rest: other links, and for http the query. In other stores a name may contain "?"."""
    links, at = url.split(LINK), 0
    for number, link in enumerate(links):
        if "://" in link:
            cut = re.search(r"[?#]", link) if link.lower().startswith(("http:", "https:")) else None
            end = at + (cut.start() if cut else len(link))
            return url[:end], url[end:]
        at += len(link) + (len(LINK) if number < len(links) - 1 else 0)
    return url, ""


def parts(url: str) -> tuple[str, str, str]:
    """The parts of an address: before the host or bucket ("simplecache::s3://"), host or bucket with the path, and the rest."""
    bare, rest = split(url)
    head, mark, path = bare.partition("://")
    return head + mark, path, rest


def name_of(url: str) -> str:
    """The last component of the path, as a name."""
    bare = _public_link(split(url)[0].rpartition(LINK)[2])
    name = posixpath.basename(bare.rstrip("/"))
    return urllib.parse.unquote(name) if is_web(url) else name


def child_of(url: str, names: tuple[str, ...]) -> str:
    bare, rest = split(url)
    if is_web(url):
        names = tuple(urllib.parse.quote(name, safe="/") for name in names)
    start = bare if bare.endswith("://") else bare.rstrip("/") + "/"
    return start + "/".join(names) + rest


def parent_of(url: str) -> str:
    head, path, rest = parts(url)
    return head + posixpath.dirname(path.rstrip("/")) + rest


def scheme_of(url: str) -> str:
    """The protocol of the path."""
    return parts(url)[0].removesuffix("://").rpartition(LINK)[2].lower()


def escaped(url: str) -> str:
    """A web address in which invalid characters, such as blanks and lone percent signs, are percent-encoded."""
    return urllib.parse.quote(ESCAPED.sub("%25", url), safe=IN_URLS)


def public(url: str) -> str:
    """An address that is safe to show: without users, passwords, queries and fragments in any link of a chain."""
    return LINK.join(map(_public_link, url.split(LINK)))


def _public_link(link: str) -> str:
    head, mark, path = link.partition("://")
    if not mark and is_mistyped(link):
        head, mark, path = link.partition(":/")
    if not mark:
        return link
    if head.lower() not in WITHOUT_USERS:
        path = path[_end_of_user(path):]
    ends = r"\?(?=[^/]*=)" if head.lower() in STORES else "[?#]"  # an object in a store may have "?" in its name
    return head + mark + re.split(ends, path)[0]


def _end_of_user(path: str) -> int:
    """Where the user's name and password end. A password may contain an unescaped slash; the port that follows the host shows where it
    ends."""
    host = path.partition("/")[0]
    if "@" in host:
        return host.rindex("@") + 1
    port = host.rpartition(":")[2] if ":" in host and not host.endswith("]") else ""
    return path.rindex("@") + 1 if port and not port.isdigit() and "@" in path else 0


def without_secrets(text: str, url: str) -> str:
    """A message of another library about `url`, without what `public` omits from it and from any other address."""
    text = ADDRESS.sub(lambda found: public(found[0]), text)
    for link in url.split(LINK):
        _, _, path = link.partition("://")
        user = path[: _end_of_user(path)].removesuffix("@")
        query = path.partition("?")[2]
        for secret in (query, *(value.partition("=")[2] for value in query.split("&")), user, *user.split(":", 1)):
            for form in (secret, urllib.parse.unquote(secret)):
                if len(form) > 2:
                    text = text.replace(form, "…")
    return text
