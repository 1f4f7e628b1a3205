"""GradCAM and the default feature taps on timm's families, for `coverage.py --timm`."""

import copy
from collections.abc import Mapping
from typing import Any

import timm
import torch
from _coverage_models import CLASSES, randomise
from _coverage_trials import (
    SEEDS,
    TOO_EMPTY,
    Outcome,
    explain,
    failed,
    has_gradient,
    judge_error,
    loss_of,
    recorded_layers,
    what_is_wrong,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from hf_e2kd.architectures import find_architecture
from hf_e2kd.architectures.taps import Taps, default_taps
from hf_e2kd.explainers import Explanation
from hf_e2kd.explainers.gradcam import gradcam_map
from hf_e2kd.explainers.registry import build_explainer
from hf_e2kd.testing import relative_error

# The smallest model of each module of timm.models that classifies.
TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "eva02_tiny_patch14_224",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "hieradet_small",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "ens_adv_inception_resnet_v2",
    "inception_v3": "adv_inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "caformer_s18",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "jx_nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nfnet_l0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m0_9",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_s3_tiny_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p16_224",
}
TIMM_SIZE = 128
# Sides of the images where a model takes none of 128 pixels, and says so by no statement of its own.
TIMM_SIZES = {"byoanet": 256}


def build_timm(family: str, seed: int = 0) -> nn.Module:
    """The smallest model of a family in training mode, without dropout."""
    torch.manual_seed(seed)
    model = timm.create_model(TIMM[family], num_classes=CLASSES)
    randomise(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def timm_inputs(family: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """Images of 128 pixels a side, or of the model's own size where it is fixed."""
    cfg = model.pretrained_cfg
    size = TIMM_SIZES.get(family, cfg["input_size"][1] if cfg["fixed_input_size"] else TIMM_SIZE)
    generator = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(2 if size > TIMM_SIZE else 4, 3, size, size, generator=generator)}


def try_timm(family: str) -> dict[str, Outcome]:
    """GradCAM as a training loss on a family of timm's, and its default taps."""
    for seed in range(SEEDS):
        model = build_timm(family, seed)
        inputs = timm_inputs(family, model)
        outcome = try_timm_gradcam(model, inputs)
        if outcome.detail != TOO_EMPTY:
            break
    return {"gradcam": outcome, "default taps": try_taps(model, inputs)}


def try_timm_gradcam(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Outcome:
    """One backward pass, compared with one whose layer is read by a hook in the model's own forward."""
    target = torch.arange(len(inputs["pixel_values"])) % CLASSES
    hooked = copy.deepcopy(model)
    try:
        with recorded_layers(model) as layers:
            explanation = explain(model, build_explainer("gradcam"), inputs, target)
            loss = loss_of(explanation)
            loss.backward()
    except Exception as error:  # what isn't a refusal is a failure of ours to refuse
        return judge_error(error, model)
    classifier = [module for part in _parts(model.get_classifier()) for module in part.modules()]
    # A model of two branches has two, and the layer lies in one branch.
    reached = [layer for layer in layers if layer in classifier and has_gradient(layer)]
    problem = what_is_wrong(explanation, loss, model, [layers[0], *(reached or layers)], "gradcam")
    if problem:
        return Outcome("FAILED", problem)
    try:
        loss_of(explained_by_hook(hooked, inputs, target)).backward()
    except Exception as failure:
        return failed(failure, "by the hook: ")
    found, expected = ({n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (model, hooked))
    error = relative_error(found, expected)
    if not error < HOOK_TOLERANCE:
        return Outcome("FAILED", f"the gradient is off from the hook's by {error:.1g}", error)
    return Outcome("works", error=error)


HOOK_TOLERANCE = 1e-4


def _parts(classifier: Any) -> tuple[nn.Module, ...]:
    """A timm model's classifiers: distilled ones have two."""
    return classifier if isinstance(classifier, tuple) else (classifier,)


def explained_by_hook(model: nn.Module, inputs: Mapping[str, torch.Tensor], target: torch.Tensor) -> Explanation:
    """The explanation by `torch.autograd.grad` over the model's own forward pass."""
    architecture = find_architecture(model)
    path = None if architecture is None else architecture.target_path(model)
    if path != "forward_features":
        return explain(model, build_explainer("gradcam", target_layer=path), inputs, target)
    grid = architecture.split(copy.deepcopy(model), inputs).grid
    outputs = []

    def forward_features(*args: Any, **options: Any) -> torch.Tensor:
        outputs.append(type(model).forward_features(model, *args, **options))
        return outputs[-1]

    def forward_head(*args: Any, **options: Any) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # fused kernels have no double backward
            return type(model).forward_head(model, *args, **options)

    model.forward_features, model.forward_head = forward_features, forward_head
    torch.manual_seed(0)
    logits = model(inputs["pixel_values"])
    one_hot = nn.functional.one_hot(target, CLASSES)
    (gradient,) = torch.autograd.grad((logits * one_hot).sum(), outputs[0], create_graph=True)
    return Explanation(logits, gradcam_map(grid.cells(outputs[0]), grid.cells(gradient)), target)


def try_taps(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Outcome:
    """The features of the layers that are tapped where none are named."""
    try:
        paths = default_taps(model)
        taps = Taps(model, paths)
        taps.start()
        with torch.no_grad():
            model(inputs["pixel_values"])
        features = taps.stop(inputs)
    except ValueError as error:
        return judge_error(error, model)
    if not paths or not all(feature.isfinite().all() for feature in features.values()):
        return Outcome("FAILED", "no features" if not paths else "the features are not finite")
    return Outcome("works", f"{len(paths)}")


def run_timm(families: list[str] | None) -> dict[str, dict[str, Outcome]]:
    """Try every family of timm's, or some."""
    return {family: try_timm(family) for family in tqdm(TIMM) if families is None or family in families}


TIMM_TITLE = "## timm"


def timm_table(results: Mapping[str, Mapping[str, Outcome]], before: str = "") -> str:
    """The section of timm's families in Markdown.

    Args:
        before: The section as it was, whose rows stay where a family was not tried again.
    """
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in before.splitlines() if line.startswith("| ")}
    rows |= {family: timm_row(family, outcomes) for family, outcomes in results.items()}
    lines = [rows[family] for family in TIMM if family in rows]
    works = sum(" | ✓ | " in line for line in lines)
    text = f"""{TIMM_TITLE}

The smallest model of each of the {len(lines)} modules of timm {timm.__version__} that classify, with random weights;
GradCAM trains {works} of them. It *works* by the same conditions, its gradient being compared with that of a hook in
the model's own forward pass (to {HOOK_TOLERANCE}, relatively). Beside it stands how many layers the losses of features
tap where none are named, or why none. Written by
`python recipes/benchmarks/coverage.py --timm --output recipes/benchmarks/COVERAGE.md`; with `--only`, the rows of the
other modules stay.

| module | model | gradcam | default taps |
|---|---|---|---|
"""
    return text + "\n".join(lines) + "\n"


def timm_row(family: str, outcomes: Mapping[str, Outcome]) -> str:
    gradcam, taps = outcomes["gradcam"], outcomes["default taps"]
    cells = ["✓" if gradcam.verdict == "works" else _in_words(gradcam)]
    cells.append(taps.detail if taps.verdict == "works" else _in_words(taps))
    return f"| {family} | {TIMM[family]} | {' | '.join(cells)} |"


def _in_words(outcome: Outcome) -> str:
    return f"{outcome.verdict}: {outcome.detail}"
