"""The architecture as tests: imports point one way, heavy packages load late, no file we read runs code."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "layerprobe"
MODULES = sorted(SOURCE.rglob("*.py"))

# A module imports from its own package and from lower ranks; equal ranks do not know each other.
RANK = {
    name: rank
    for rank, names in enumerate(
        [
            ["errors"],
            ["utils"],
            ["distributed", "core"],
            ["probes"],
            ["networks"],
            ["layers"],
            ["data"],
            ["training", "figures"],  # figures draws rows for everything above it
            ["layerwise", "editing", "pages"],  # pages holds figures
            ["runs", "baselines", "recording"],
            ["auditing", "paper"],
            ["report"],
            ["demo"],
            ["cli"],
            ["__main__"],
        ]
    )
    for name in names
}
LATE = {
    "rich",
    "matplotlib",
    "pooch",
    "PIL",
    "jinja2",
    "loky",
    "transformers",
    "datasets",
    "distributed",
    "ray",
}
UNSAFE = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}


def dotted_name(path):
    """`src/layerprobe/core/moments.py` -> `layerprobe.core.moments`; a package keeps its `__init__`."""
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)


def imported(node, module):
    """Dotted names that an import statement asks for, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        package = module.split(".")[: -node.level] if node.level else []
        base = ".".join(package + ([node.module] if node.module else []))
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def layering_faults(source, module):
    own = module.split(".")[1]
    if own == "__init__":  # the package itself may offer anything
        return []
    if own not in RANK:
        return [f"{module}: give {own!r} a place in RANK"]
    faults = []
    for node in ast.walk(ast.parse(source)):
        for name in imported(node, module):
            package, *rest = name.split(".")
            if package != "layerprobe":
                continue
            target = rest[0] if rest else ""
            if target != own and RANK.get(target, len(RANK)) >= RANK[own]:
                faults.append(f"{module}:{node.lineno} imports {name}")
    return faults


def import_time_nodes(tree):
    """Nodes that run when the module is imported: not those in functions, nor under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from import_time_nodes(node)


def early_imports(source, module):
    return [
        f"{module}:{node.lineno} imports {name} at import time"
        for node in import_time_nodes(ast.parse(source))
        for name in imported(node, module)
        if name.split(".")[0] in LATE
        or (name.split(".")[0] == "tyro" and not module.startswith("layerprobe.cli"))
    ]


def is_unsafe_import(name):
    return name.split(".")[0] in UNSAFE or name in {"joblib.load", "torch.load"}


def is_unsafe_call(call):
    called = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return (
        called == "joblib.load"
        or called.endswith("read_pickle")
        or (called == "torch.load" and options.get("weights_only") != "True")
        or options.get("allow_pickle", "False") != "False"
    )


def unsafe_loads(source, module):
    """Ways to read a file that may run code in it."""
    return [
        f"{module}:{node.lineno} may run code from a file: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if any(map(is_unsafe_import, imported(node, module)))
        or (isinstance(node, ast.Call) and is_unsafe_call(node))
    ]


@pytest.mark.parametrize("check", [layering_faults, early_imports, unsafe_loads])
def test_source(check):
    assert MODULES
    assert [fault for path in MODULES for fault in check(path.read_text("utf-8"), dotted_name(path))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layerprobe.core.moments", "from layerprobe.probes import MASC"),
        ("layerprobe.core.moments", "import layerprobe.cli"),
        ("layerprobe.core.moments", "from layerprobe import probes"),
        ("layerprobe.core.moments", "from layerprobe import probe"),
        ("layerprobe.core.moments", "from ..probes import MASC"),
        ("layerprobe.core.moments", "from .. import probes"),
        ("layerprobe.core.__init__", "from ..probes.masc import MASC"),
        ("layerprobe.core.moments", "def f():\n    from layerprobe.probes import MASC"),
        ("layerprobe.core.moments", "if TYPE_CHECKING:\n    from layerprobe.probes import MASC"),
        ("layerprobe.auditing.audit", "from layerprobe.paper import tables"),
        ("layerprobe.paper.tables", "from layerprobe.auditing import audit"),
        ("layerprobe.errors", "import layerprobe"),
        ("layerprobe.novelty", "import numpy"),
    ],
)
def test_upward_import_is_found(module, source):
    assert len(layering_faults(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("layerprobe.core.moments", "from layerprobe.core.linalg import eigh\nfrom .subspaces import fit"),
        ("layerprobe.probes.masc", "from layerprobe.errors import InputError\nfrom ..core import subspaces"),
        ("layerprobe.cli", "from layerprobe import demo\nimport layerprobe.core.subspaces"),
        ("layerprobe.__init__", "from layerprobe.cli import main"),
        ("layerprobe.core.moments", "import torch\nfrom numpy import linalg"),
    ],
)
def test_downward_import_passes(module, source):
    assert layering_faults(source, module) == []


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("import matplotlib.pyplot as plt", 1),
        ("try:\n    from PIL import Image\nexcept ImportError:\n    pass", 1),
        ("class A:\n    import rich", 1),
        ("def f():\n    import tyro", 0),
        ("if TYPE_CHECKING:\n    from matplotlib.figure import Figure", 0),
    ],
)
def test_early_import_is_found(source, faults):
    assert len(early_imports(source, "layerprobe.report.figures")) == faults


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("import pickle", 1),
        ("from joblib import load", 1),
        ("joblib.load(path)", 1),
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("np.load(path, allow_pickle=True)", 1),
        ("pd.read_pickle(path)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("np.load(path, allow_pickle=False)", 0),
        ("json.load(file)", 0),
    ],
)
def test_unsafe_load_is_found(source, faults):
    assert len(unsafe_loads(source, "layerprobe.training.checkpoints")) == faults


def run_without_late(script):
    """Run Python where the late packages cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(LATE)}))"
    return subprocess.run([sys.executable, "-c", f"{block}\n{script}"], capture_output=True, text=True)


def test_every_module_imports_without_the_late_packages():
    names = [dotted_name(path).removesuffix(".__init__") for path in MODULES if path.stem != "__main__"]
    result = run_without_late("\n".join(f"import {name}" for name in names))
    assert result.returncode == 0, result.stderr


def test_late_packages_cannot_be_imported_in_this_check():
    assert "rich" in run_without_late("import rich").stderr


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("layers", "Captured", "CaptureResult"),
        ("training", "Measured", "RetrainingEpoch"),
        ("training", "Retrained", "RetrainingResult"),
        ("auditing", "Relabelled", "RepairedLabels"),
        ("paper.run_outputs", "Subject", "FinishedRun"),
    ],
)
def test_old_public_names_warn_and_work(module, old, new):
    module = importlib.import_module(f"layerprobe.{module}")
    with pytest.deprecated_call(match=f"{old} is deprecated: use {new}"):
        assert getattr(module, old) is getattr(module, new)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = module.Nothing
