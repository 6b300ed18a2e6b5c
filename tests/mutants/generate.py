"""The mutants of a file, by mutmut's operators."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from mutmut.mutation.file_mutation import Mutation, create_mutations, deep_replace


@dataclass(frozen=True)
class Mutant:
    """One change of one function.

    ``function`` is the dotted name inside the module, ``line`` the first changed line of the original file, and
    ``source`` the text of the whole changed file.
    """

    path: str
    function: str
    line: int
    removed: str
    added: str
    source: str

    @property
    def key(self) -> str:
        """Eight digits that identify the change; they stay the same when other lines of the file change."""
        text = "\n".join((self.path, self.function, self.removed, self.added))
        return hashlib.sha1(text.encode()).hexdigest()[:8]


class MutatedFile:
    """A parsed file with all its mutants, each of which is rendered on demand."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.text = Path(path).read_text()
        self.module, mutations, _, _ = create_mutations(path, self.text)
        names = _function_names(self.module)
        self._mutations = [
            (names[mutation.contained_by_top_level_function], mutation)
            for mutation in mutations
            if mutation.contained_by_top_level_function in names
        ]

    def __len__(self) -> int:
        return len(self._mutations)

    def mutant(self, number: int) -> Mutant:
        """Render one mutant."""
        function, mutation = self._mutations[number]
        source = _replace(self.module, mutation)
        before, after = self.text.splitlines(), source.splitlines()
        changes = [
            code for code in difflib.SequenceMatcher(None, before, after, False).get_opcodes() if code[0] != "equal"
        ]
        first, last = changes[0], changes[-1]
        removed = "\n".join(line.strip() for line in before[first[1] : last[2]])
        added = "\n".join(line.strip() for line in after[first[3] : last[4]])
        return Mutant(self.path, function, first[1] + 1, removed, added, source)


def _function_names(module: cst.Module) -> dict[cst.CSTNode | None, str]:
    """Return the dotted name of each function and method that mutmut changes."""
    names: dict[cst.CSTNode | None, str] = {}
    for node in module.body:
        if isinstance(node, cst.FunctionDef):
            names[node] = node.name.value
        elif isinstance(node, cst.ClassDef):
            methods = (child for child in node.body.body if isinstance(child, cst.FunctionDef))
            names |= {method: f"{node.name.value}.{method.name.value}" for method in methods}
    return names


def _replace(module: cst.Module, mutation: Mutation) -> str:
    changed = deep_replace(module, mutation.original_node, mutation.mutated_node)
    assert isinstance(changed, cst.Module)
    return changed.code
