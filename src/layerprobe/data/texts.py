"""Texts that come with Python: docstrings of its standard library, by package."""

import ast
import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layerprobe.errors import DataError

__all__ = ["TextSet", "docstrings"]

PACKAGES = {
    "asyncio": "asyncio",
    "decimal": "_pydecimal.py",  # decimal.py itself only imports
    "email": "email",
    "http": "http",
    "importlib": "importlib",
    "logging": "logging",
    "mailbox": "mailbox.py",
    "multiprocessing": "multiprocessing",
    "unittest": "unittest",
    "xml": "xml",
}
"""Each class and where its sources are; every installation of Python has them."""
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
        Codes in 0..K-1, positions in `class_names`.
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

    A real, small and uneven text set that needs no download: about 1,400 training and 350 test texts with
    Python 3.11, of 8 to several hundred words, 50 to 200 training texts a class. Its labels are right by
    construction. Logistic regression on its words gets eight of ten right, the largest class holds one in
    seven. It is no benchmark: another version of Python has other texts, and some packages resemble each
    other (mailbox and email), or repeat themselves in nearly equal sentences.

    Sources are parsed and not imported. Docstrings of modules, classes and functions count that have at
    least 8 words and occur in one package only, each once, in the order of files. A fifth, chosen by
    a digest of the text, are the test set.

    Returns
    -------
    TextSet

    Raises
    ------
    DataError
        If the sources are not there, as in a Python that is packed into one file.

    Examples
    --------
    >>> from layerprobe.data import docstrings
    >>> texts = docstrings()
    >>> texts.class_names[:4]
    ('asyncio', 'decimal', 'email', 'http')
    """
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, set[int]] = {}  # text -> the classes that it occurs in
    for code, place in enumerate(PACKAGES.values()):
        path = root / place
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        texts = [text for file in files for text in _docstrings_of(file)]
        if not texts:
            raise DataError(f"{path} holds no docstrings: this Python comes without its sources.")
        for text in texts:
            found.setdefault(text, set()).add(code)
    split: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
    for text, codes in found.items():
        if len(codes) == 1:
            is_test = hashlib.sha256(text.encode()).digest()[0] % _TEST_SHARE == 0
            split[is_test].append((text, next(iter(codes))))
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
