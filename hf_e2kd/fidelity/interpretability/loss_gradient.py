"""Loss gradients: which pixels of an image change the loss, and how much of that lies on objects and edges."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...alignment.labels import is_multi_label
from ...alignment.precision import at_least_float32
from ...architectures import call_model
from ...architectures.base import evaluating
from ...architectures.discovery import in_own_precision

NO_SKIMAGE = "Canny edges need scikit-image: pip install 'hf-e2kd[interpretability]'"


@dataclass(frozen=True)
class LossGradient:
    """The gradient of the cross-entropy at the pixels.

    Args:
        gradients: Gradient of each sample's own loss, (B, C, H, W), in at least float32.
        losses: Cross-entropy of each sample, (B,), in nats.
    """

    gradients: Tensor
    losses: Tensor

    @property
    def energy(self) -> Tensor:
        """The squared gradient, summed over the colours: (B, H, W). Its share on masks is `energy_pointing_game`."""
        # Of a confident model the gradients are tiny: scaled first, so that their squares don't vanish.
        peak = self.gradients.abs().amax(dim=(1, 2, 3), keepdim=True)
        return (self.gradients / peak.where(peak > 0, 1)).square().sum(dim=1)


def loss_gradient(model: nn.Module, pixel_values: Tensor, labels: Tensor) -> LossGradient:
    """Differentiate each sample's cross-entropy with respect to its pixels.

    The model is run in evaluation mode, so that samples don't mix, and keeps its mode and its gradients.

    References:
        Tsipras et al., "Robustness May Be at Odds with Accuracy", ICLR 2019: gradients of models that use what people
        see look like the object. Used by Han et al., ICML 2023, Figs. 8 and 13.

    Args:
        model: Classifier of images with one class a sample.
        pixel_values: Images (B, C, H, W), as the model takes them.
        labels: True classes (B,).

    Raises:
        ValueError: labels are of another number or out of range, the model has several labels a sample or one logit, or
            a loss isn't finite.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> found = loss_gradient(model, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> found.gradients.shape, found.energy.shape
        (torch.Size([3, 1, 2, 2]), torch.Size([3, 2, 2]))
    """
    if is_multi_label(model):
        raise ValueError(
            f"{type(model).__name__} gives several labels a sample, which have no cross-entropy over classes. Explain "
            "it by hf_e2kd.explain(model, pixel_values, method='saliency'), label by label."
        )
    if labels.shape != pixel_values.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels is of shape {tuple(labels.shape)} and type {labels.dtype}, for {len(pixel_values)} images. Give "
            "one class each, as whole numbers."
        )
    with torch.enable_grad(), evaluating(model):
        pixels = pixel_values.detach().clone().requires_grad_()
        logits = at_least_float32(call_model(model, in_own_precision(model, {"pixel_values": pixels})))
        if logits.shape[1] == 1:
            raise ValueError(
                f"{type(model).__name__} gives one logit, whose cross-entropy is always 0. Explain the score itself by "
                "hf_e2kd.explain(model, pixel_values, method='saliency')."
            )
        if ((labels < 0) | (labels >= logits.shape[1])).any():
            wrong = labels[(labels < 0) | (labels >= logits.shape[1])].tolist()
            raise ValueError(f"labels holds {wrong[:5]}, but the model's classes are 0 to {logits.shape[1] - 1}.")
        losses = nn.functional.cross_entropy(logits, labels.to(logits.device), reduction="none")
        if not losses.isfinite().all():
            wrong = (~losses.isfinite()).nonzero().flatten().tolist()
            raise ValueError(f"The loss of the samples {wrong[:8]} isn't finite. Run the model in float32.")
        (gradients,) = torch.autograd.grad(losses.sum(), pixels)
    return LossGradient(at_least_float32(gradients), losses.detach())


def edge_masks(images: Tensor, sigma: float = 1.0, margin: int = 1) -> Tensor:
    """Find the Canny edges of images, which loss gradients that look like what people see lie on.

    A gradient's share on them is `energy_pointing_game(loss_gradient(…).energy, edge_masks(images))`.

    Args:
        images: Images (B, 3 or 1, H, W), of intensities from 0 to 1 (a processor's normalisation undone).
        sigma: Standard deviation of the Gaussian that smooths them first, in pixels.
        margin: Number of pixels by which an edge is widened on each side.

    Returns:
        (B, H, W) bool. Their share of the image, `edge_masks(images).float().mean((1, 2))`, is what an even map has on
        them.

    Raises:
        ImportError: scikit-image isn't installed.
        ValueError: images leave 0 to 1, or are of other axes; or the margin is negative.
    """
    try:
        from skimage.feature import canny
    except ImportError as error:
        raise ImportError(NO_SKIMAGE) from error
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must have the axes (B, 3 or 1, H, W), but the shape is {tuple(images.shape)}.")
    # Written so that a NaN fails too.
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images hold values from {images.min():g} to {images.max():g}. Give intensities from 0 to 1: undo the "
            "processor's normalisation by hf_e2kd.alignment.inputs.image_view(processor).intensities(pixel_values)."
        )
    if margin < 0:
        raise ValueError(f"margin is {margin}. Give a number of pixels, 0 for none.")
    grey = images.detach().cpu().double().mean(dim=1).numpy()
    edges = torch.stack([torch.from_numpy(canny(image, sigma=sigma)) for image in grey])
    widened = nn.functional.max_pool2d(edges.float()[:, None], 2 * margin + 1, stride=1, padding=margin)[:, 0]
    return (widened > 0).to(images.device)
