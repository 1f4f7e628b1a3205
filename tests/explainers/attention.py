"""What the tests of attention explainers share: both of them, and the families with the tokens that they read."""

import torch

from hf_e2kd.explainers.attention_gradient import AttentionGradient
from hf_e2kd.explainers.attention_rollout import AttentionRollout
from hf_e2kd.explainers.pooled_tokens import PooledTokens
from tests.models import images

TARGET = torch.tensor([3, 1])
EXPLAINERS = [AttentionRollout, AttentionGradient]
PIXELS = {"pixel_values": images()}
CLASS_TOKEN = PooledTokens((0,), None)
CLASS_AND_DISTILLATION = PooledTokens((0, 1), None)
VISION = {
    "vit": CLASS_TOKEN,
    "deit": CLASS_TOKEN,
    "deit_teacher": CLASS_AND_DISTILLATION,
    "beit": PooledTokens((), 1),
    "beit_token": CLASS_TOKEN,
    "dinov2": PooledTokens((0,), 1),
    "timm_vit": CLASS_TOKEN,
    "timm_vit_average": PooledTokens((), 1),
    "timm_deit_distilled": CLASS_AND_DISTILLATION,
    "timm_siglip": PooledTokens((), 0),
    "wrapped_vit": CLASS_TOKEN,
    "wrapped_vit_average": PooledTokens((), 1),
}
