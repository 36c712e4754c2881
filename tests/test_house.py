"""Count the house: length of call trips, files per folder, names and docstrings.

Each check returns a list of findings, and the test compares its length with the limit in `LIMITS`. A limit
is never raised; the goal is the number in its comment, or else 0.
``python tests/test_house.py`` prints every finding with file and line; ``python tests/test_house.py NAME``
prints those of the checks whose name contains NAME.
"""

import ast
import sys
import threading
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

LIMITS = {
    # call trips, measured at run time; only files of the package count
    "files of MASC.fit": 6,
    "depth of MASC.fit": 7,
    "files of probe()": 16,  # 15
    "files of audit()": 28,  # 25
    # structure
    "files above ten per folder": 0,
    "duplicate public classes": 0,
    "modules named like their function": 0,
    "private names used in another file": 0,
    "private names used in tests": 0,
    "functions with more than eight arguments": 0,
    # language
    "public functions without Parameters": 0,
    "participles as class names": 0,
    "docstrings that open with a relative clause": 0,
    "words that are not plain": 0,
    "references to METHOD": 0,
}

# Folders that hold a registry of small files of one kind.
REGISTRIES = {"probes", "baselines", "paper/experiments", "data"}

# Functions that may have more than eight arguments.
MANY_ARGUMENTS = {
    "probe": "public entry point: users pass its options by keyword",
    "audit": "public entry point: users pass its options by keyword",
    "audit_features": "public entry point: users pass its options by keyword",
    "audit_predictions": "public entry point: users pass its options by keyword",
    "plan": "takes the options of probe()",
    "of": "RunSpec.of, public entry point, called with keywords",
    "train": "public entry point, called with keywords",
    "train_stacked": "public entry point, called with keywords",
    "retrain": "public entry point, called with keywords",
}

# Nouns that end like a participle, and participles that do not.
NOUNS_IN_ED = {"Seed", "Speed", "Feed"}
PARTICIPLES = {"Found", "Told", "Sent", "Taken", "Held", "Drawn", "Given", "Chosen", "Absent", "Running"}

OPENINGS = {"What", "Whatever", "Who", "Whom", "Whose", "That", "Of", "By", "How", "Where"}
WORDS = {
    "nobody",
    "somebody",
    "whom",
    "whoever",
    "whatever",
    "heart",
    "jury",
    "juries",
    "befall",
    "befalls",
    "told",
    "tells",
    "asked",
}

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "layerprobe"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(folder):
    """Return {path: syntax tree} of the Python files under a folder, this file aside."""
    return {
        path: ast.parse(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*.py"))
        if path != Path(__file__).resolve()
    }


def at(path, node, text):
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {text}"


# --- call trips -------------------------------------------------------------------------------------------


def trip(function, *arguments, **options):
    """Call a function and return (files visited, deepest stack), both of the package only.

    Calls made while a module is imported do not count. One thread of torch is faster on small data.
    """
    files, deepest = set(), []

    def profile(frame, event, _):
        nonlocal deepest
        if event != "call" or not frame.f_code.co_filename.startswith(str(SOURCE)):
            return
        stack = []
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(str(SOURCE)):
                if code.co_name == "<module>":
                    return
                if not code.co_name.startswith("<"):  # a lambda or comprehension belongs to its function
                    stack.append(f"{code.co_filename}:{code.co_firstlineno} {code.co_name}")
            frame = frame.f_back
        files.update(call.split(":")[0] for call in stack[:1])
        deepest = max(deepest, stack[::-1], key=len)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        function(*arguments, **options)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        torch.set_num_threads(threads)
    root = f"{ROOT}/"
    return sorted(file.removeprefix(root) for file in files), [call.removeprefix(root) for call in deepest]


@cache
def masc_trip():
    """Fit 300 x 10."""
    from layerprobe import MASC

    rng = np.random.default_rng(0)
    return trip(MASC().fit, rng.normal(size=(300, 10)) * 0.5 ** np.arange(10), np.arange(300) % 5)


@cache
def digits():
    """Return images of the digits 0 to 3, labels of which 20 % are wrong, and a network trained on 400."""
    from layerprobe.data import load, noise
    from layerprobe.networks import MLP
    from layerprobe.training import Recipe, train

    data = load("digits")
    chosen = data.train_labels < 4
    x = torch.tensor(data.train_images[chosen][:500]).float() / 16
    labels = noise.uniform(data.train_labels[chosen][:500], 0.2, num_classes=4, seed=0).labels
    model = MLP(64, (32, 32), num_classes=4)
    train(model, x[100:], torch.tensor(labels)[100:], Recipe("adam", 1e-3, 64, max_epochs=9), order_seed=0)
    return x, labels, model


@cache
def probe_trip():
    from layerprobe import probe

    x, labels, model = digits()
    return trip(probe, model, (x[100:], labels[100:]), (x[:100], labels[:100]))


@cache
def audit_trip():
    from layerprobe import audit

    x, labels, model = digits()
    holdout = (x[:100], labels[:100])
    return trip(audit, model, (x[100:], labels[100:]), policy="noisy_holdout", holdout=holdout)


# --- structure --------------------------------------------------------------------------------------------


def files_above_ten():
    """Return the files beyond the tenth of each folder that is not a registry; `__init__` is not counted."""
    folders = defaultdict(list)
    for path in parsed(SOURCE):
        if path.stem not in {"__init__", "__main__"}:
            folders[path.parent].append(path)
    return [
        at(path, None, f"{len(paths)} files in the folder")
        for folder, paths in folders.items()
        if folder.relative_to(SOURCE).as_posix() not in REGISTRIES
        for path in paths[10:]
    ]


def public_classes():
    return [
        (path, node)
        for path, tree in parsed(SOURCE).items()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def duplicate_classes():
    counts = Counter(node.name for _, node in public_classes())
    return [at(path, node, node.name) for path, node in public_classes() if counts[node.name] > 1]


def shadowed_modules():
    return [
        at(path, node, node.name)
        for path, tree in parsed(SOURCE).items()
        for node in tree.body
        if isinstance(node, FUNCTIONS) and node.name == path.stem
    ]


def is_private(name):
    protocol = name.endswith("__") or name.startswith("_repr_")  # of Python, of notebooks
    return name.startswith("_") and not protocol and name != "_"


def defined_names(tree):
    """Return the names that a file defines: functions, classes, variables, attributes, arguments."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


@cache
def private_names():
    """Return the private names that the package defines."""
    return {name for tree in parsed(SOURCE).values() for name in defined_names(tree) if is_private(name)}


def foreign_private_names(folder):
    """Return where a file imports, reads or patches a private name of another file of the package."""
    findings = []
    for path, tree in parsed(folder).items():
        foreign = private_names() - set(defined_names(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (
                node.level or (node.module or "").startswith("layerprobe")
            ):
                names = [alias.name for alias in node.names if is_private(alias.name)]
            elif isinstance(node, ast.Attribute):
                own = ast.unparse(node.value) in {"self", "cls", "super()"}  # inherited
                names = [node.attr] if node.attr in foreign and not own else []
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                names = [text for text in texts if isinstance(text, str) and is_private(text.split(".")[-1])]
            else:
                names = []
            findings += [at(path, node, name) for name in names]
    return findings


def functions():
    """Return (path, function, its class or None) of the functions and methods of the package."""
    for path, tree in parsed(SOURCE).items():
        for node in tree.body:
            if isinstance(node, FUNCTIONS):
                yield path, node, None
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, FUNCTIONS):
                        yield path, inner, node


def arguments(function, owner):
    """Return the names of a function's arguments without `self` and `cls`."""
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    return [arg.arg for arg in every][1 if owner and not static else 0 :]


def is_command(function):
    """Return whether a function is a command of the shell: its arguments are options."""
    return "readable_options" in map(ast.unparse, function.decorator_list)


def many_arguments():
    return [
        at(path, function, f"{function.name}: {len(names)} arguments")
        for path, function, owner in functions()
        if len(names := arguments(function, owner)) > 8
        and function.name not in MANY_ARGUMENTS
        and not is_command(function)
        and not (function.name == "__init__" and path.parent.name == "probes")
    ]


# --- language ---------------------------------------------------------------------------------------------


def without_parameters():
    """Return the public functions of two or more arguments whose docstring does not describe them.

    A method that overrides one of a base class in the package inherits its description. A command of the
    shell describes its options below "Args:".
    """
    described = defaultdict(set)  # class: methods described there
    bases = {node.name: [ast.unparse(base) for base in node.bases] for _, node in public_classes()}
    missing = []
    for path, function, owner in functions():
        if function.name.startswith("_") or (owner and owner.name.startswith("_")):
            continue
        heading = "Args:\n" if is_command(function) else "Parameters\n"
        if heading in (ast.get_docstring(function) or ""):
            described[owner.name if owner else None].add(function.name)
        elif len(arguments(function, owner)) > 1 and "overload" not in map(
            ast.unparse, function.decorator_list
        ):
            missing.append((path, function, owner))

    def inherits(name, method):
        return any(method in described[base] or inherits(base, method) for base in bases.get(name, ()))

    return [
        at(path, function, f"{owner.name}.{function.name}" if owner else function.name)
        for path, function, owner in missing
        if not (owner and inherits(owner.name, function.name))
    ]


def is_participle(name):
    last = "".join(" " + c if c.isupper() else c for c in name).split()[-1:]
    word = last[0] if last else name
    return word in PARTICIPLES or (word.endswith("ed") and word not in NOUNS_IN_ED)


def participles():
    return [at(path, node, node.name) for path, node in public_classes() if is_participle(node.name)]


def docstrings():
    for path, tree in parsed(SOURCE).items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
                yield path, node, text


def relative_openings():
    return [
        at(path, node, text.splitlines()[0])
        for path, node, text in docstrings()
        if text.split()[0].strip(",;:") in OPENINGS
    ]


def lines_with(words, folders, endings):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in endings and path != Path(__file__).resolve() and ".ipynb" not in path.parts:
                for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
                    if words & set("".join(c if c.isalnum() else " " for c in line).split()):
                        yield f"{path.relative_to(ROOT)}:{number} {line.strip()}"


CHECKS = {
    "files of MASC.fit": lambda: masc_trip()[0],
    "depth of MASC.fit": lambda: masc_trip()[1],
    "files of probe()": lambda: probe_trip()[0],
    "files of audit()": lambda: audit_trip()[0],
    "files above ten per folder": files_above_ten,
    "duplicate public classes": duplicate_classes,
    "modules named like their function": shadowed_modules,
    "private names used in another file": lambda: foreign_private_names(SOURCE),
    "private names used in tests": lambda: foreign_private_names(ROOT / "tests"),
    "functions with more than eight arguments": many_arguments,
    "public functions without Parameters": without_parameters,
    "participles as class names": participles,
    "docstrings that open with a relative clause": relative_openings,
    "words that are not plain": lambda: list(lines_with(WORDS, ["src"], {".py", ".html"})),
    "references to METHOD": lambda: list(lines_with({"METHOD"}, ["src", "tests", "docs"], {".py", ".md"})),
}


@pytest.mark.parametrize("name", LIMITS)
def test_count_is_within_its_limit(name):
    findings = CHECKS[name]()
    assert len(findings) <= LIMITS[name], "\n".join(findings)


def lines_per_package():
    counts = Counter()
    for path in parsed(SOURCE):
        counts[path.relative_to(SOURCE).parts[0]] += len(path.read_text("utf-8").splitlines())
    return counts


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE.parent))
    chosen = [name for name in LIMITS if " ".join(sys.argv[1:]).lower() in name.lower()]
    for name in chosen:
        findings = CHECKS[name]()
        print(f"\n{name}: {len(findings)} (limit {LIMITS[name]})", *findings, sep="\n  ")
    print("\nlines per package")
    for package, count in sorted(lines_per_package().items(), key=lambda item: -item[1]):
        print(f"{count:8,} {package}")
    print(f"{lines_per_package().total():8,} in all")
