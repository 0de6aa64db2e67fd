"""The tree says where things are: imports go one way, and no file is longer than a sitting."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrpc_lightning"
# Each floor may import those before it. Floors of one line do not import each other.
FLOORS = (
    ("errors", "text", "demo"),
    ("hub", "origin"),
    ("nn", "pairs"),
    ("model", "data"),
    ("run",),
    ("report",),
    ("deploy",),
    ("study",),
    ("cli",),
    ("__init__", "__main__"),
)
# The one floor on which a library may be imported.
ONLY_IN = {"jsonargparse": "cli", "lightning.pytorch.cli": "cli", "optuna": "study", "matplotlib": "report"}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor_of(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{path}: a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def own_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, as dotted names within it; files of its own folder included."""
    names = {name.removeprefix("mrpc_lightning.") for name in imported(path) if name.startswith("mrpc_lightning.")}
    return {name for name in names if exists(name) or exists(name.rpartition(".")[0])}


def exists(name: str) -> bool:
    path = PACKAGE / name.replace(".", "/")
    return bool(name) and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = name_of(path)
    for module in own_modules(path):
        there = module.split(".")[0]
        if there != here and there != "__version__":
            assert floor_of(there) < floor_of(here), f"{path.relative_to(PACKAGE)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_some_libraries_have_one_place(path: Path) -> None:
    for library, place in ONLY_IN.items():
        if any(name == library or name.startswith(f"{library}.") for name in imported(path)):
            assert name_of(path) == place, f"{path.relative_to(PACKAGE)} imports {library}"


def test_files_import_each_other_in_no_circle() -> None:
    modules = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): own_modules(path)
        for path in FILES
    }
    done: set[str] = set()
    while ready := {name for name, needs in modules.items() if name not in done and needs & set(modules) <= done}:
        done |= ready
    assert done == set(modules), f"these import each other: {sorted(set(modules) - done)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
