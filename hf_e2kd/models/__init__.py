"""Networks that the papers define, as models of transformers. Importing this makes the Auto classes know them."""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from .backbone import BackboneConfig, BackboneForImageClassification
from .base import register
from .bcos_densenet import BcosDenseNetConfig, BcosDenseNetForImageClassification
from .bcos_published import bcos_config, load_bcos_weights
from .bcos_resnet import BcosResNetConfig, BcosResNetForImageClassification
from .bcos_vit import BcosViTConfig, BcosViTForImageClassification
from .explanation_autoencoder import ExplanationAutoencoder, ExplanationAutoencoderConfig
from .lenet import LeNetConfig, LeNetForImageClassification
from .sentence_encoder import SentenceEncoderConfig, SentenceEncoderForSequenceClassification
from .shufflenet import ShuffleNetConfig, ShuffleNetForImageClassification, shufflenet_config
from .small_resnet import SmallResNetConfig, SmallResNetForImageClassification
from .vgg import VGGConfig, VGGForImageClassification
from .x_distillation import XDistillationConfig, XDistillationForImageClassification
from .x_resnet import XResNetConfig, XResNetForImageClassification
from .zero_shot import ZeroShotConfig, ZeroShotForImageClassification

for _model in (
    BackboneForImageClassification,
    BcosResNetForImageClassification,
    BcosDenseNetForImageClassification,
    BcosViTForImageClassification,
    LeNetForImageClassification,
    ShuffleNetForImageClassification,
    SmallResNetForImageClassification,
    VGGForImageClassification,
    XDistillationForImageClassification,
    XResNetForImageClassification,
    ZeroShotForImageClassification,
):
    register(_model)
register(SentenceEncoderForSequenceClassification, AutoModelForSequenceClassification)
AutoConfig.register(ExplanationAutoencoderConfig.model_type, ExplanationAutoencoderConfig)
AutoModel.register(ExplanationAutoencoderConfig, ExplanationAutoencoder)

__all__ = [
    "BackboneConfig",
    "BackboneForImageClassification",
    "BcosDenseNetConfig",
    "BcosDenseNetForImageClassification",
    "BcosResNetConfig",
    "BcosResNetForImageClassification",
    "BcosViTConfig",
    "BcosViTForImageClassification",
    "ExplanationAutoencoder",
    "ExplanationAutoencoderConfig",
    "LeNetConfig",
    "LeNetForImageClassification",
    "SentenceEncoderConfig",
    "SentenceEncoderForSequenceClassification",
    "ShuffleNetConfig",
    "ShuffleNetForImageClassification",
    "SmallResNetConfig",
    "SmallResNetForImageClassification",
    "VGGConfig",
    "VGGForImageClassification",
    "XDistillationConfig",
    "XDistillationForImageClassification",
    "XResNetConfig",
    "XResNetForImageClassification",
    "ZeroShotConfig",
    "ZeroShotForImageClassification",
    "bcos_config",
    "load_bcos_weights",
    "shufflenet_config",
]
