"""Data to distil on: the embedded sets, and loaders of the papers' data from disk."""

from hf_e2kd.data.annotated import keep_annotations
from hf_e2kd.data.broden import load_broden
from hf_e2kd.data.categories import TINY_IMAGENET_GROUPS, Categories, read_categories
from hf_e2kd.data.cifar import load_cifar10, load_cifar100
from hf_e2kd.data.coco import load_coco
from hf_e2kd.data.collate import AnnotatedCollator, MixingCollator
from hf_e2kd.data.concepts import LabelledImages
from hf_e2kd.data.decoding import undecodable_images
from hf_e2kd.data.digits import digits_on_textures
from hf_e2kd.data.explanation_map import ExplanationMap
from hf_e2kd.data.imagenet import load_imagenet
from hf_e2kd.data.joint_augment import JointAugment
from hf_e2kd.data.labels import encode_labels
from hf_e2kd.data.mnist import load_fashion_mnist, load_mnist
from hf_e2kd.data.reviews import reviews_with_hints, train_tokenizer
from hf_e2kd.data.shapes import synthesised_shapes
from hf_e2kd.data.sst import load_sst
from hf_e2kd.data.sun397 import load_sun397
from hf_e2kd.data.tiny_imagenet import load_tiny_imagenet
from hf_e2kd.data.tiny_imagenet_parquet import load_tiny_imagenet_parquet
from hf_e2kd.data.transforms import DistillationTransform
from hf_e2kd.data.voc import load_voc
from hf_e2kd.data.waterbirds import load_waterbirds

__all__ = [
    "TINY_IMAGENET_GROUPS",
    "AnnotatedCollator",
    "Categories",
    "DistillationTransform",
    "ExplanationMap",
    "JointAugment",
    "LabelledImages",
    "MixingCollator",
    "digits_on_textures",
    "encode_labels",
    "keep_annotations",
    "load_cifar10",
    "load_cifar100",
    "load_broden",
    "load_coco",
    "load_fashion_mnist",
    "load_imagenet",
    "load_mnist",
    "load_sst",
    "load_sun397",
    "load_tiny_imagenet",
    "load_tiny_imagenet_parquet",
    "load_voc",
    "load_waterbirds",
    "read_categories",
    "reviews_with_hints",
    "synthesised_shapes",
    "train_tokenizer",
    "undecodable_images",
]
