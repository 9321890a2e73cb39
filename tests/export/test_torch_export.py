"""What docs/export.md says of torch.export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.export import Dim

from mvqkd.export.graphs import transducer_graphs
from tests.export.helpers import CHUNKS, make_model


@pytest.mark.slow
@torch.no_grad()
def test_streaming_with_a_dynamic_batch(tmp_path: Path) -> None:
    graph = transducer_graphs(make_model(causal=True), CHUNKS, streaming=True)["encoder"]
    batch = Dim("N", min=1, max=64)
    shapes = ({0: batch}, {2: batch}, {2: batch}, {0: batch})
    program = torch.export.export(graph, graph.example(2), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "encoder.pt2")
    loaded = torch.export.load(tmp_path / "encoder.pt2").module()
    inputs = [x + torch.randn_like(x) if x.is_floating_point() else x for x in graph.example(3)]
    for got, want in zip(loaded(*inputs), graph(*inputs), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
