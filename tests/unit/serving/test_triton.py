"""config.pbtxt says what the model says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from genrec.errors import ConfigError
from genrec.serving.triton import Entry, check_config, entries_of, read_config, write_config

INPUTS = [
    SimpleNamespace(name="histories", type="tensor(int64)", shape=["batch", "length"]),
    SimpleNamespace(name="lengths", type="tensor(int64)", shape=["batch"]),
    SimpleNamespace(name="allow", type="tensor(bool)", shape=["batch", "num_items"]),
]
OUTPUTS = [SimpleNamespace(name="score", type="tensor(float)", shape=["batch", 50])]


def test_the_configuration_is_read_back_as_it_was_written() -> None:
    inputs, outputs = entries_of(INPUTS), entries_of(OUTPUTS)
    text = write_config("genrec", inputs, outputs, max_batch_size=8, max_queue_delay=100)
    assert read_config(text) == (inputs, outputs)
    assert inputs[1] == Entry("lengths", "TYPE_INT64", ())
    assert '{ name: "lengths" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }' in text
    assert '{ name: "score" data_type: TYPE_FP32 dims: [ 50 ] }' in text
    assert "max_batch_size: 8\n" in text
    check_config(text, inputs, outputs)


def test_a_configuration_of_another_model_is_refused() -> None:
    inputs, outputs = entries_of(INPUTS), entries_of(OUTPUTS)
    text = write_config("genrec", inputs, outputs, max_batch_size=8, max_queue_delay=100)
    with pytest.raises(ConfigError, match="does not fit the model"):
        check_config(text.replace("dims: [ 50 ]", "dims: [ 49 ]"), inputs, outputs)
