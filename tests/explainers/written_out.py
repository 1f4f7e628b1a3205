"""Comparison of a derivative that is written out with the derivative of the model's own forward."""

import torch


def assert_written_out_alike(model, inputs, explainer, target, tolerance=1e-10):
    """Compare maps, logits and training gradients of the transposed pass with those of the model's own forward."""
    own = explainer.with_features(model, ["any"])  # which keeps the blocks closed
    results = []
    for method in (explainer, own):
        explanation = method(model, inputs, target, create_graph=True)
        loss = explanation.maps.square().sum() + explanation.logits.square().sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        results.append((explanation.maps.detach(), explanation.logits.detach(), *gradients))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
