"""The tree of groups in model.weights.h5, over one file or the shards of a model.

A layer's group contains a group "vars" with its variables "0", "1" …, trainable ones first, and groups of the layers inside it: by
attribute name, or in a container by class name and count ("layers/batch_normalization_1"). Keras 3.6 and later write the layer's own
name as attribute `name` of "vars". A shard goes on where the one before ended, in the middle of a layer if need be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Protocol

from exporter.errors import COPY_AGAIN, FormatError
from exporter.keras.names import numbered
from exporter.sources.shared.shards import VARIABLES as VARIABLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Groups of a model that are not layers: their arrays have the shapes of the layers' arrays.
NOT_LAYERS = frozenset(("optimizer", "_optimizer", "metrics", "_metrics", "compiled_metrics", "_compile_metrics", "compiled_loss",
                        "_compile_loss", "_loss_tracker", "loss_tracker"))
# The list of a model's layers: 2.12 to 2.14 name it after the property that they traverse.
LAYER_LISTS = ("layers", "_layer_checkpoint_dependencies")


class File(Protocol):
    """The interface of a file for this module: exporter.formats.hdf5_file.File, or an equivalent object."""

    def kind(self, path: str, /) -> str | None: ...

    def names(self, path: str, /) -> list[str]: ...

    def text(self, path: str, name: str, /) -> str | None: ...

    def shape(self, path: str, /) -> tuple[int, ...]: ...

    def dtype(self, path: str, /) -> str | None: ...

    def array(self, path: str, /, *, is_kernel: bool = False) -> tuple[NDArray[Any], str]: ...

    def arrays(self, paths: Sequence[str], /) -> list[tuple[NDArray[Any], str]]: ...

    def expect(self, groups: Iterable[str], /) -> None: ...


class Group:
    """One group, in every file that contains it. `path` is its path in them, "" for the root."""

    def __init__(self, files: Sequence[File], path: str = "") -> None:
        self._files = files
        self.path = path
        self._holders: list[File] | None = None
        self._names: list[tuple[File, str]] | None = None  # of the variables
        self._variables: list[tuple[File, str]] | None = None

    def child(self, name: str) -> Group | None:
        """The subgroup of this name; None: there is none. An error if it is a link or not a group."""
        path = f"{self.path}/{name}" if self.path else name
        files = self._with_group(path)
        return Group(files, path) if files else None

    def members(self, without: AbstractSet[str] = frozenset()) -> list[str]:
        """Names of the members of this group except "vars" and those whose path is in `without`, in natural order: "dense_2" before
        "dense_10"."""
        names = {name for file in self._files for name in file.names(self.path)} - {VARIABLES}
        above = f"{self.path}/" if self.path else ""
        return sorted([name for name in names if above + name not in without] if without else names, key=numbered)

    def children(self, without: AbstractSet[str] = frozenset()) -> Iterator[tuple[str, Group]]:
        """The subgroups except "vars" and those whose path is in `without`, which are not opened. All variables are in a "vars"."""
        for name in self.members(without):
            path = f"{self.path}/{name}" if self.path else name
            kinds = {file.kind(path) for file in self._files}
            if "dataset" in kinds:
                raise FormatError(f"a variable is not inside a group called {VARIABLES!r}, where Keras saves every variable", where=path,
                                  hint=COPY_AGAIN)
            if "group" in kinds:
                found = self.child(name)
                if found is not None:
                    yield name, found

    def layer_list(self) -> Group | None:
        """The container of a model's layers."""
        found = [group for group in map(self.child, LAYER_LISTS) if group is not None]
        if len(found) > 1:
            raise FormatError(f"expected {LAYER_LISTS[0]} or {LAYER_LISTS[1]} in a model, got both", where=self.path)
        return found[0] if found else None

    @property
    def is_layer(self) -> bool:
        """Whether it has a "vars": since Keras 3.6 all layers have one, a list or dict of layers has none."""
        return bool(self._with_variables())

    @property
    def is_counted(self) -> bool:
        """Whether its name is that of its class, numbered by Keras in a list of layers; otherwise it is that of an attribute, chosen by
        the user."""
        above = self.path.rpartition("/")[0]
        if above.rpartition("/")[2] in LAYER_LISTS:
            return True
        return bool(above) and self.name is not None and not Group(self._files, above).is_layer

    @property
    def name(self) -> str | None:
        """The layer's own name; None before Keras 3.6."""
        for file in self._with_variables():
            found = file.text(self._own, "name")
            if found is not None:
                return found
        return None

    def variable_names(self) -> list[str]:
        """Names of the variables: "0", "1" … in a layer of Keras's own, anything where a user's class saves itself."""
        return [name for _, name in self._listed()]

    def _listed(self) -> list[tuple[File, str]]:
        if self._names is None:
            own = self._own
            self._names = [(file, name) for file in self._with_variables() for name in file.names(own)]
        return self._names

    def variables(self) -> list[tuple[File, str]]:
        """File and path of the variables 0, 1, 2 …; [] if it has none or names them differently."""
        if self._variables is None:
            own = self._own
            found = {name: (file, f"{own}/{name}") for file, name in self._listed()}
            count = len(self._listed())
            if count != len(found):
                raise FormatError("two shards contain the same variable of one layer", where=own)
            regular = [found[name] for number in range(count) if (name := str(number)) in found]
            self._variables = regular if len(regular) == count else []
            self._names = None  # thousands of groups are kept
        return self._variables

    def expect(self, groups: Iterable[Group]) -> None:
        """Says that the variables of these groups, of the same files, will be read in this order."""
        paths = [group._own for group in groups]
        for file in self._files:
            file.expect(paths)

    def holds_variables(self) -> bool:
        """Whether this group or one below it has variables."""
        return bool(self.variable_names()) or any(group.holds_variables() for _, group in self.children())

    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the variables; their data is not read."""
        return [file.shape(path) for file, path in self.variables()]

    def arrays(self) -> list[tuple[NDArray[Any], str]]:
        """The variables and the names of their types."""
        variables = self.variables()
        if len({id(file) for file, _ in variables}) == 1:
            return variables[0][0].arrays([path for _, path in variables])
        return [file.array(path) for file, path in variables]

    @property
    def _own(self) -> str:
        return f"{self.path}/{VARIABLES}" if self.path else VARIABLES

    def _with_variables(self) -> list[File]:
        if self._holders is None:
            self._holders = self._with_group(self._own)
        return self._holders

    def _with_group(self, path: str) -> list[File]:
        return [file for file in self._files if file.kind(path) is not None]  # who lists what is no group is told what it is
