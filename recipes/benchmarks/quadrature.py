# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "../..", editable = true }
# ///
"""Error of Integrated Gradients with few steps, by rule: cosine to a map of many steps.

    python recipes/benchmarks/quadrature.py --model outputs/distill_bert/teacher --dataset PATH_OF_THE_TREES

The model is any text classifier, the data what `hf_e2kd.data.text.load_texts` loads. The cosine is over a text's words;
shown are the mean and the smallest of the texts.
"""

import argparse

import torch
from torch.nn import functional as F
from tqdm import tqdm

from hf_e2kd import TextCollator
from hf_e2kd.data.text import load_texts
from hf_e2kd.experiments import run_recipe
from hf_e2kd.experiments.sources import load_classifier
from hf_e2kd.explainers import IntegratedGradients


def word_maps(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]], **options: object) -> list[torch.Tensor]:
    """The maps (B, words) of every batch."""
    explainer = IntegratedGradients(**options)
    inputs = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches]
    return [explainer(model, batch).maps for batch in tqdm(inputs, desc=str(options), leave=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a text classifier")
    parser.add_argument("--dataset", required=True, help="Hub id or folder of labelled texts")
    parser.add_argument("--split", default="test")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--reference", type=int, default=300, help="steps of the map that is compared with")
    parser.add_argument("--n-steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--rules", nargs="+", default=["gauss_legendre", "riemann_middle", "trapezoid"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    loaded = load_classifier(options.model)
    model, collator = loaded.model.eval(), TextCollator(loaded.processing_class)
    data = load_texts(options.dataset, options.split, options.split, "text", "label")[1].shuffle(seed=0)
    data = data.select(range(min(options.samples, len(data))))
    batches = [
        collator(list(data.select(range(start, min(start + 16, len(data)))))) for start in range(0, len(data), 16)
    ]
    reference = word_maps(model, batches, n_steps=options.reference)
    print(f"{len(data)} texts; cosine to {options.reference} steps of gauss_legendre\n")
    print("| rule | steps | mean | smallest |")
    print("|---|---|---|---|")
    for rule in options.rules:
        for n_steps in options.n_steps:
            maps = word_maps(model, batches, n_steps=n_steps, rule=rule)
            cosines = torch.cat([F.cosine_similarity(*pair) for pair in zip(maps, reference, strict=True)])
            print(f"| {rule} | {n_steps} | {cosines.mean():.4f} | {cosines.min():.4f} |", flush=True)


if __name__ == "__main__":
    run_recipe(main)
