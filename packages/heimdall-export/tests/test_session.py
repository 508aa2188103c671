"""Running model files: any batch size gives the same answers."""

import numpy as np
import pytest
from heimdall_export.session import Sample, open_session, run_batches, run_in_batches
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def session(onnx_path):
    """The small network, opened once."""
    return open_session(onnx_path)


@settings(max_examples=20)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_a_batch_size_changes_no_answer(session, features, n, batch_size):
    """Evaluation, calibration and service run models in different batches."""
    inputs = Sample(features[:n]).inputs
    found = run_in_batches(session, inputs, batch_size=batch_size)
    whole = dict(zip(("positions", "uncertainties"), session.run(None, inputs), strict=True))
    for name, values in whole.items():
        assert found[name] == pytest.approx(values, rel=1e-5)


@settings(max_examples=20)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_batches_are_full_but_for_the_last(session, features, n, batch_size):
    """A batch of one more sample than asked for may not fit into memory."""
    batches = run_batches(session, Sample(features[:n]).inputs, ["positions"], batch_size)
    sizes = [len(positions) for (positions,) in batches]
    assert sum(sizes) == n
    assert set(sizes[:-1]) <= {batch_size}
    assert np.isfinite(sizes[-1])


def test_products_of_bytes_do_not_overflow(session):
    """On processors without VNNI they would, unless ONNX Runtime is asked for slower ones."""
    options = session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
