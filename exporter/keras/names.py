"""Names that Keras generates: for layers without a name, and for the groups of a container."""

from __future__ import annotations

import functools
import re


def numbered(name: str) -> tuple[str, int]:
    """("dense", 10) for "dense_10", ("dense", 0) for "dense": the order in which a container counts a class."""
    found = re.fullmatch(r"(.*?)_([1-9][0-9]{0,8})", name, re.DOTALL)
    return (found[1], int(found[2])) if found else (name, 0)


def unnumbered(scope: str) -> str:
    """A scope without the number by which TensorFlow makes it unique: "bn" for "bn_1"."""
    return re.sub(r"_\d+$", "", scope)


def spellings(scope: str) -> tuple[str, str]:
    """The names that a layer with this scope may have."""
    return scope, unnumbered(scope)


@functools.lru_cache(1000)  # a few classes, over and over
def snake_case(class_name: str) -> str:
    """The name that Keras gives the group of a class in a container: "my_bn" for MyBN, "conv2d_transpose" for Conv2DTranspose."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", re.sub(r"\W+", "", class_name)).lower()
