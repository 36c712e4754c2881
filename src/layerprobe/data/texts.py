"""A text set from the docstrings of Python's standard library; the classes are packages."""

import ast
import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerprobe.errors import DataError

PACKAGES = {
    "asyncio": "asyncio",
    "decimal": "_pydecimal.py",  # decimal.py has only imports
    "email": "email",
    "http": "http",
    "importlib": "importlib",
    "logging": "logging",
    "mailbox": "mailbox.py",
    "multiprocessing": "multiprocessing",
    "unittest": "unittest",
    "xml": "xml",
}
"""The path of each class's sources in the standard library."""
_FEWEST_WORDS = 8
_TEST_SHARE = 5


@dataclass(frozen=True, eq=False, repr=False)
class TextSet:
    """Texts and true labels.

    Attributes
    ----------
    name : str
    train_texts, test_texts : tuple of str
    train_labels, test_labels : ndarray of shape (n,), int64
        Class indices in 0..K-1, positions in `class_names`.
    class_names : tuple of str
        The K class names.
    """

    name: str
    train_texts: tuple[str, ...]
    train_labels: np.ndarray
    test_texts: tuple[str, ...]
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"TextSet({self.name!r}: {len(self.train_texts)} train and {len(self.test_texts)} test texts, "
            f"{len(self.class_names)} classes)"
        )


def docstrings() -> TextSet:
    """Read the docstrings of ten packages of Python's standard library; the class is the package.

    The set is small, unbalanced and needs no download: about 1,400 training and 350 test texts with Python
    3.11, of 8 to several hundred words, 50 to 200 training texts per class. Its labels are correct by
    construction. Logistic regression on word counts has an accuracy of about 0.8; the largest class has one
    text in seven. It is no benchmark: other versions of Python have other texts, and some packages have
    similar texts (mailbox and email).

    Sources are parsed and not imported. The set has each docstring of a module, class or function that has at
    least 8 words and occurs in one package only, in the order of files. A hash of the text assigns a fifth of
    them to the test set.

    Returns
    -------
    TextSet

    Raises
    ------
    DataError
        If this Python has no sources, for example because it is packed into one file.

    Examples
    --------
    >>> from layerprobe.data import docstrings
    >>> texts = docstrings()
    >>> texts.class_names[:4]
    ('asyncio', 'decimal', 'email', 'http')
    """
    root = Path(sysconfig.get_path("stdlib"))
    occurrences: dict[str, set[int]] = {}  # text -> its classes
    for k, source in enumerate(PACKAGES.values()):
        path = root / source
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        texts = [text for file in files for text in _docstrings_of(file)]
        if not texts:
            raise DataError(
                f"{path} holds no docstrings: use a Python that has the sources of its standard library."
            )
        for text in texts:
            occurrences.setdefault(text, set()).add(k)
    split: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    for text, classes in occurrences.items():
        if len(classes) == 1:
            is_test = hashlib.sha256(text.encode()).digest()[0] % _TEST_SHARE == 0
            split[is_test].append((text, next(iter(classes))))
    (train, train_labels), (test, test_labels) = (zip(*split[part], strict=True) for part in (False, True))
    return TextSet("docstrings", train, np.array(train_labels), test, np.array(test_labels), tuple(PACKAGES))


def _docstrings_of(file: Path) -> list[str]:
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read: {error}. Is Python's standard library installed?") from error
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in texts if text is not None and len(text.split()) >= _FEWEST_WORDS]
