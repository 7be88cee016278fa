"""The house rules that a tool can check: direction of imports, packaging, sizes, docstrings, and the README's tree."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "worldsim": ROOT / "worldsim",
    "worldsim.envs": ROOT / "envs",
    "worldsim.agents": ROOT / "agents",
    "worldsim.eval": ROOT / "eval",
    "worldsim.play": ROOT / "worldsim" / "play",
}
MAY_IMPORT = {  # the only directions; agents see worlds through Gymnasium and nothing else
    "worldsim": {"worldsim"},
    "worldsim.envs": {"worldsim", "worldsim.envs"},
    "worldsim.agents": {"worldsim.agents"},
    "worldsim.eval": {"worldsim", "worldsim.envs", "worldsim.agents", "worldsim.eval"},
    "worldsim.play": set(FOLDERS),
}
AGENTS_MAY_ALSO = ("worldsim.errors", "worldsim.provenance")  # wording and bookkeeping, no world and no model
SIMULATORS = {"mujoco", "dm_control", "pybullet", "brax"}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS, MAX_WHEEL_BYTES = 400, 60, 8, 30_000_000
SOURCES = {path: package for package, folder in FOLDERS.items() for path in sorted(folder.glob("*.py"))}
ALL_FILES = [*SOURCES, *sorted((ROOT / "tests").glob("*.py"))]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, at any depth of it; ``from a import b`` counts as ``a`` and ``a.b``."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package_of(module: str) -> str | None:
    """The one of our packages that a module is in, or None."""
    found = [package for package in FOLDERS if module == package or module.startswith(package + ".")]
    return max(found, key=len) if found else None


def may_import(package: str, module: str) -> bool:
    """Whether a file of ``package`` may import ``module``."""
    other = package_of(module)
    if other is None:
        return package != "worldsim" or module.partition(".")[0] not in SIMULATORS
    if package == "worldsim.agents" and other == "worldsim":
        return module == "worldsim" or module.startswith(AGENTS_MAY_ALSO)
    return other in MAY_IMPORT[package]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    """worldsim <- worldsim.envs <- worldsim.agents <- worldsim.eval <- worldsim.play, and the model never meets a simulator."""
    upward = [module for module in imports_of(path) if not may_import(SOURCES[path], module)]
    assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


def test_links_and_mapping_agree() -> None:
    """Links are relative and lead to the folders that setuptools maps; a sixth package needs a decision."""
    mapping = PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert {package: ROOT / folder for package, folder in mapping.items()} == FOLDERS
    assert PYPROJECT["tool"]["setuptools"]["packages"] == list(FOLDERS)
    for package in list(FOLDERS)[1:]:
        link = ROOT / package.replace(".", "/")
        if link == FOLDERS[package]:
            continue  # no link: it stands where it is imported from
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{package.rpartition('.')[2]}"
        assert link.resolve() == FOLDERS[package].resolve()


def test_installed_names() -> None:
    """An installation owns one import name: `worldsim`. A user's own `envs` folder is never in the way."""
    names = importlib.metadata.distribution("worldsim").read_text("top_level.txt") or ""
    assert names.split() == ["worldsim"]


def test_import_is_light() -> None:
    """`import worldsim` and the command line's own import load neither torch nor MuJoCo, and register both worlds."""
    code = (
        "import sys, worldsim, worldsim.cli, gymnasium\n"
        "print(sorted({'torch', 'mujoco', 'h5py', 'jax', 'minari'} & set(sys.modules)))\n"
        "print(sorted(name for name in gymnasium.registry if name.startswith('worldsim/')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, registered = done.stdout.splitlines()
    assert loaded == "[]"
    assert {"worldsim/Arena-v0", "worldsim/Dream-v0"} <= set(ast.literal_eval(registered))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources without going to the network."""
    copy = tmp_path_factory.mktemp("source") / "worldsim"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("worldsim", "envs", "agents", "eval"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_is_whole(wheel: zipfile.ZipFile) -> None:
    """The wheel holds every module of the five packages, py.typed, the page, templates, checkpoints, decoders and records, no more."""
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {f"{package.replace('.', '/')}/{path.name}" for path, package in SOURCES.items()} | {"worldsim/py.typed"}
    for package, pattern in (
        ("worldsim", "checkpoints/**/*"),
        ("worldsim.eval", "templates/*"),
        ("worldsim.eval", "decoders/*"),
        ("worldsim.eval", "*.json"),
        ("worldsim.play", "page/*"),
    ):
        below = [path for path in FOLDERS[package].glob(pattern) if path.is_file()]
        expected |= {f"{package.replace('.', '/')}/{path.relative_to(FOLDERS[package])}" for path in below}
    assert packed == expected


def test_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    """The wheel, weights included, stays within 30 MB."""
    assert wheel.filename is not None
    assert Path(wheel.filename).stat().st_size < MAX_WHEEL_BYTES


def test_core_dependencies_are_used() -> None:
    """Every core dependency is imported by the model or its worlds, and everything they import is declared."""
    module_names = {"pillow": "PIL", "docstring-parser": "docstring_parser"}

    def modules(requirements: list[str]) -> set[str]:
        names = (re.split(r"[\[<>=!~; ]", line)[0] for line in requirements)
        return {module_names.get(name, name.replace("-", "_")) for name in names}

    project = PYPROJECT["project"]
    core = modules(project["dependencies"])
    extras = modules([line for lines in project["optional-dependencies"].values() for line in lines])
    known = set(sys.stdlib_module_names) | {"worldsim"}
    imported = {module.partition(".")[0] for path in SOURCES for module in imports_of(path)} - known
    assert imported <= core | extras, imported - core - extras
    needed = {
        module.partition(".")[0]
        for path, package in SOURCES.items()
        if package in ("worldsim", "worldsim.envs")
        for module in imports_of(path)
    }
    assert core <= needed, core - needed


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    """A file is at most 400 lines, a function at most 60 lines and 8 parameters."""
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{path.name}:{node.lineno} {node.name}"
            assert (node.end_lineno or node.lineno) - node.lineno + 1 <= MAX_FUNCTION_LINES, place
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert sum(argument.arg not in ("self", "cls") for argument in arguments) <= MAX_PARAMETERS, place


@pytest.mark.parametrize("path", sorted((FOLDERS["worldsim.play"] / "page").iterdir()), ids=lambda path: path.name)
def test_page_needs_nothing_else(path: Path) -> None:
    """A file of the page is at most 400 lines, and names no address but that of SVG's own namespace."""
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_manners(path: Path) -> None:
    """Public things are documented; nothing prints but the command line; no error or warning is silenced wholesale.

    No file is written under its final name: a killed program would leave half of it.
    """
    tree = tree_of(path)
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for owner in ast.walk(tree):
        if not isinstance(owner, ast.Module | ast.ClassDef) or getattr(owner, "name", "").startswith("_"):
            continue
        for node in owner.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path.name}:{node.lineno} catches everything"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print" or path.name == "cli.py", f"{path.name}:{node.lineno} prints"
            assert called not in ("warnings.filterwarnings", "warnings.simplefilter"), f"{path.name}:{node.lineno}"
            in_place = called.endswith((".write_text", ".write_bytes")) and "temporary" not in called
            assert not in_place, (
                f"{path.name}:{node.lineno} writes in place: worldsim.storage.write_atomically does not"
            )


def test_names_tell_what_is_inside() -> None:
    """No file is called utils, helpers, misc or common."""
    assert not {path.stem for path in ALL_FILES} & {"utils", "util", "helpers", "misc", "common"}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("test_*.py")), ids=lambda path: path.name)
def test_tests_state_their_truth(path: Path) -> None:
    """Every test says in its docstring what holds if it passes."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}"


def readme_tree() -> dict[str, str]:
    """path -> description, of the README's file tree: folders at the margin, their entries indented by two."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- tree -->\s*```\n(.*?)```", text, re.DOTALL)
    assert found, "the README has no tree"
    entries, folder = {}, ""
    for line in found[1].splitlines():
        if line.strip():
            name, _, description = line.strip().partition("  ")
            folder = folder if line.startswith("  ") else name if name.endswith("/") else ""
            entries[name if name == folder else folder + name] = description.strip()
    return entries


def real_tree() -> set[str]:
    """What stands in the repository: our folders, their files and subfolders, and the visible files at the top."""
    made_by_use = {"build", "dist", "runs", "data"}
    entries = set()
    for top in [*ROOT.iterdir(), FOLDERS["worldsim.play"]]:
        if top.name.startswith((".", "__")) or top.name in made_by_use or top.suffix == ".egg-info":
            continue
        name = str(top.relative_to(ROOT))
        entries.add(name + "/" if top.is_dir() else name)
        if top.is_dir():
            inside = (path for path in top.iterdir() if not path.name.startswith((".", "__pycache__")))
            entries |= {f"{name}/{path.name}" + "/" * path.is_dir() for path in inside if not path.is_symlink()}
    return entries | {".ci/run"}


def test_readme_tree_is_the_real_one() -> None:
    """The README's tree names every file of the repository, none that is gone, and says a word about each."""
    written, real = readme_tree(), real_tree()
    assert set(written) == real, f"missing {sorted(real - set(written))}, gone {sorted(set(written) - real)}"
    assert all(written.values()), [name for name, description in written.items() if not description]


def anchors(document: Path) -> set[str]:
    """Names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link and picture exists, and so does the heading that it names."""
    text = re.sub(r"<!--.*?-->|```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            name, _, heading = target.partition("#")
            page = document.parent / name if name else document
            assert page.exists(), f"{document.name} points at {target}"
            assert not heading or page.suffix != ".md" or heading in anchors(page), (
                f"{document.name}: no heading {target}"
            )
