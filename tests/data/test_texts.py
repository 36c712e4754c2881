import sysconfig

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from layerprobe.data import docstrings, texts
from layerprobe.errors import DataError


@pytest.fixture(scope="module")
def corpus():
    return docstrings()


def test_the_corpus_matches_its_docstring(corpus):
    every = [*corpus.train_texts, *corpus.test_texts]
    assert len(set(every)) == len(every)
    assert 1000 < len(corpus.train_texts) < 2500
    assert 0.15 < len(corpus.test_texts) / len(every) < 0.25
    assert min(len(text.split()) for text in every) == 8
    assert np.bincount(corpus.train_labels).min() >= 40
    assert np.bincount(corpus.train_labels).max() / len(corpus.train_labels) < 0.2
    for labels, rows in (
        (corpus.train_labels, corpus.train_texts),
        (corpus.test_labels, corpus.test_texts),
    ):
        assert labels.dtype == np.int64
        assert len(labels) == len(rows)
        assert set(labels) == set(range(10))
    assert repr(corpus).startswith("TextSet('docstrings': ")
    again = docstrings()
    assert again.train_texts == corpus.train_texts
    assert again.test_labels.tolist() == corpus.test_labels.tolist()


def test_labels_are_the_packages_of_the_texts(corpus):
    import email.message
    import inspect
    import unittest.case

    labels = dict(
        zip(corpus.train_texts + corpus.test_texts, [*corpus.train_labels, *corpus.test_labels], strict=True)
    )
    assert corpus.class_names[labels[inspect.getdoc(unittest.case.TestCase.setUpClass)]] == "unittest"
    assert corpus.class_names[labels[inspect.getdoc(email.message.Message.get_payload)]] == "email"


def test_a_linear_classifier_on_words_separates_the_classes(corpus):
    words = TfidfVectorizer(min_df=2)
    x, test_x = words.fit_transform(corpus.train_texts), words.transform(corpus.test_texts)
    accuracy = (
        LogisticRegression(C=30, max_iter=300).fit(x, corpus.train_labels).score(test_x, corpus.test_labels)
    )
    assert accuracy > 0.75


def test_a_python_without_sources_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match=r"asyncio.* cannot be read: .*standard library installed"):
        docstrings()
    for place in texts.PACKAGES.values():
        if not place.endswith(".py"):
            (tmp_path / place).mkdir()
    with pytest.raises(DataError, match="asyncio holds no docstrings"):
        docstrings()
