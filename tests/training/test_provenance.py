import json
import platform

import torch

from layerprobe.training import provenance


def test_it_names_versions_and_the_kind_of_host_but_not_the_host():
    facts = provenance()
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["host"]["machine"] == platform.machine()
    assert platform.node() not in json.dumps(facts)
