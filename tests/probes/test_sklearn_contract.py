"""scikit-learn's own checks, over every probe in the registry."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from layerprobe.probes import available, create

NO_SPREAD = "the check has a class of equal rows, which has no covariance"
EXPECTED = {
    "QDA": {
        "check_sample_weights_shape": NO_SPREAD,
        "check_sample_weights_not_overwritten": NO_SPREAD,
        "check_sample_weight_equivalence_on_dense_data": NO_SPREAD,
    }
}


@pytest.mark.filterwarnings("ignore::layerprobe.errors.LayerprobeWarning")
@parametrize_with_checks(
    [create(name) for name in available()],
    expected_failed_checks=lambda estimator: EXPECTED.get(type(estimator).__name__, {}),
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
