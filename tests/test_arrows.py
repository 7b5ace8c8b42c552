"""The house's arrows: simulations -> server, client -> shared; Flower stays out of shared but for its messages."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "shared": set(),
    "client": {"shared"},
    "server": {"shared"},
    "simulations": {"server", "client", "shared"},
}


def imports(package: str) -> Iterator[tuple[str, str]]:
    """Every import of a package, also those inside functions: file and top-level name."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from ((path.relative_to(ROOT).as_posix(), name.partition(".")[0]) for name in names)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_import_goes_against_the_arrows(package):
    foreign = set(MAY_IMPORT) - MAY_IMPORT[package] - {package}
    assert [(file, name) for file, name in imports(package) if name in foreign] == []


def test_only_messages_bring_flower_into_shared():
    assert {file for file, name in imports("shared") if name == "flwr"} == {"shared/messages.py"}
