"""Pairs of network and data set that misbehave in worker processes."""

import os
from dataclasses import replace

import pytest

from layerprobe.paper import PAIRS


@pytest.fixture
def register():
    """Register a variant of mlp-digits that acts in other processes; return its name.

    `at_build` is called when a worker builds the network, `at_batch` = (n, act) before training batch n.
    """
    digits, parent, names = PAIRS["mlp-digits"], os.getpid(), []

    def make(name, *, at_build=None, at_batch=None):
        def build(**options):
            network, batches = digits.build(**options), []
            if os.getpid() != parent and at_build:
                at_build()

            def before(module, _):
                batches.extend([None] * module.training)
                if os.getpid() != parent and len(batches) == at_batch[0]:
                    at_batch[1]()

            if at_batch:
                network.register_forward_pre_hook(before)
            return network

        PAIRS[name] = replace(digits, name=name, build=build)
        names.append(name)
        return name

    yield make
    for name in names:
        del PAIRS[name]
