"""Read the source of installed packages without importing them."""

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path


@lru_cache
def parse(package: str, file: str) -> ast.Module:
    """A file of a package, as a tree. OSError if there is no such file."""
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    return ast.parse(Path(folder, file).read_text(encoding="utf-8"))


def find(tree: ast.AST, name: str) -> ast.AST:
    """The class or function with a name directly inside a tree. StopIteration if there is none."""
    return next(node for node in tree.body if getattr(node, "name", None) == name)


def fields(node: ast.ClassDef) -> list[str]:
    """Names of the annotated fields of a class, its parents' not included."""
    return [
        part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    ]
