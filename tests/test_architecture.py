"""The house: arrows point down only, commands start fast, files are short, and Flower gets every source."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from simulations import launcher

ROOT = Path(__file__).parent.parent
PARTS = ("server", "client", "shared", "simulations")
SOURCES = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
FORBIDDEN = {
    "shared": {"server", "client", "simulations"},
    "server": {"client", "simulations"},
    "client": {"server", "simulations"},
    "simulations": set(),
}
HEAVY = {
    "torch",
    "wfdb",
    "sqlalchemy",
    "scipy",
    "matplotlib",
    "sklearn",
    "rich",
    "flwr",
    "onnx",
    "onnxruntime",
    "numpy",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """The modules that a file imports, by their whole names."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_arrows_point_down_only(path):
    part = path.relative_to(ROOT).parts[0]
    assert not roots(imported(path)) & FORBIDDEN[part]
    assert "tests" not in roots(imported(path))


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "shared")], ids=name)
def test_shared_speaks_flower_in_its_messages_only(path):
    assert ("flwr" in roots(imported(path))) == (path.name == "messages.py")


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name.endswith("cli.py")], ids=name)
def test_a_command_file_imports_nothing_heavy_at_its_top(path):
    assert not roots(imported(path, top_level=True)) & HEAVY


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_has_at_most_300_lines_and_says_what_it_is_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_function_is_longer_than_forty_lines_of_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines}"


def test_flower_packs_every_source_of_both_sides():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["flwr"]["app"]["fab-include"]
    packed = {path for pattern in patterns for path in ROOT.glob(pattern)}
    assert packed == {path for path in SOURCES if not path.is_relative_to(ROOT / "simulations")}
    components = project["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_flower_is_handed_the_app_and_nothing_beside_it(tmp_path):
    folder = launcher._without_neighbours(tmp_path / "app")
    handed = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    of_the_app = [path for path in SOURCES if not path.is_relative_to(ROOT / "simulations")]
    assert handed == {path.relative_to(ROOT): path.read_bytes() for path in (ROOT / "pyproject.toml", *of_the_app)}


@pytest.mark.parametrize("module", ["server.report", "server.pictures", "server.forgotten", "simulations.summary"])
def test_what_follows_a_run_brings_neither_pytorch_nor_all_of_scipy(module):
    program = f"import {module}, sys; print([name for name in ('torch', 'scipy.stats') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_package_is_installed_with_its_files():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES}
    assert set(setup["packages"]) == packages
    for package, patterns in setup["package-data"].items():
        for path in (ROOT / package).iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(path.match(pattern) for pattern in patterns), path


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_names_a_place_of_somebody_s_machine(path):
    text = path.read_text()
    assert not [place for place in ("/" + "work/", "/" + "root/", "/" + "home/", "/" + "tmp/") if place in text]
