"""scikit-learn's own checks, over every probe in the registry."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from layerprobe.probes import available, create


@pytest.mark.filterwarnings("ignore::layerprobe.errors.LayerprobeWarning")
@parametrize_with_checks([create(name) for name in available()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)
