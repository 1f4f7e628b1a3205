"""Data to distil on: the embedded sets, and loaders of the papers' data from disk."""

from hf_e2kd.data.annotated import keep_annotations
from hf_e2kd.data.coco import load_coco
from hf_e2kd.data.collate import AnnotatedCollator, MixingCollator
from hf_e2kd.data.decoding import undecodable_images
from hf_e2kd.data.digits import digits_on_textures
from hf_e2kd.data.explanation_map import ExplanationMap
from hf_e2kd.data.imagenet import load_imagenet
from hf_e2kd.data.joint_augment import JointAugment
from hf_e2kd.data.labels import encode_labels
from hf_e2kd.data.reviews import reviews_with_hints, train_tokenizer
from hf_e2kd.data.sst import load_sst
from hf_e2kd.data.sun397 import load_sun397
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.data.voc import load_voc
from hf_e2kd.data.waterbirds import load_waterbirds

__all__ = [
    "AnnotatedCollator",
    "DistillationTransform",
    "ExplanationMap",
    "JointAugment",
    "MixingCollator",
    "digits_on_textures",
    "encode_labels",
    "keep_annotations",
    "load_coco",
    "load_imagenet",
    "load_sst",
    "load_sun397",
    "load_voc",
    "load_waterbirds",
    "reviews_with_hints",
    "train_tokenizer",
    "undecodable_images",
]
